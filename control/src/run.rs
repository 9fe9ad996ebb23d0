//! A run and its legal moves. Pure: no I/O.
