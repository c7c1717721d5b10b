"""Networks under their published tensor names; :func:`ctgencore.zoo.build_network` builds them."""
