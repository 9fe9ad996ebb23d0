//! Which run is next. Pure: no I/O.
