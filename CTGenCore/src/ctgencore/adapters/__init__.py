"""What fits CTGen's parts into other libraries."""
