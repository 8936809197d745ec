"""What a region costs: dated prices, assumptions that anybody can change, and the sum."""
