"""The harm classifier: an encoder with a head that scores texts from 0 to 5."""
