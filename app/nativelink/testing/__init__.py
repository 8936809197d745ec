"""What tests of stores are made of: contract suites, a model-based machine, fakes and faults."""
