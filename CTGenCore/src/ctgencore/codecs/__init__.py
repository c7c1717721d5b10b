"""Frozen autoencoders behind one interface; see :class:`ctgencore.codecs.base.Codec`."""
