//! fracas: loadgen.
