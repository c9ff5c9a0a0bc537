"""How harmful a text is, 0 to 5: an encoder with a head, fitted on labels and run over documents."""
