//! The wire contract of fracas: package `fracas.v1` as Rust types, gRPC clients and gRPC servers.
//!
//! The source is `proto/fracas/v1/*.proto`, whose comments are the manual of the API. The code below is generated
//! from it and committed, so that nobody needs `protoc`; `tests/generated.rs` fails when the two differ and writes
//! it anew when `FRACAS_REGENERATE=1` is set. Nothing here decides anything.

/// Package `fracas.v1`.
pub mod v1 {
    #![allow(
        clippy::all,
        clippy::unwrap_used,
        missing_docs,
        rustdoc::all,
        reason = "generated; its comments are linted where they are written, in the .proto files"
    )]
    include!("gen/fracas.v1.rs");
}

/// The contract as an encoded `google.protobuf.FileDescriptorSet`, with its comments and everything it imports:
/// what gRPC reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/fracas.v1.binpb");
