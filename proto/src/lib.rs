//! fracas: proto.
