//! fracas: dataplane.
