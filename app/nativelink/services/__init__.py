"""What the server offers: calls in, our vocabulary out. No transport and no config here."""
