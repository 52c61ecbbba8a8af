"""Find the first wrong operation of a dump, and the known mistake that explains this operation."""
