"""Plain HTTP(S) to servers that clients name: what is asked is checked, and who is connected to."""
