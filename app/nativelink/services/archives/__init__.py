"""Archives (tar and zip, packed in what is usual) made directories of the CAS."""
