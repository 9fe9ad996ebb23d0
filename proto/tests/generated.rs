//! The committed code and descriptors are what the `.proto` files say.
//!
//! `FRACAS_REGENERATE=1 cargo test -p fracas-proto --test generated` writes them anew. When the
//! committed code does not even build, empty `src/gen/fracas.v1.rs` first: this test links it.

use std::path::Path;
use std::{env, fs, str};

use prost::Message;
use prost_types::FileDescriptorSet;

const FILES: [&str; 7] = [
    "fracas/v1/agent.proto",
    "fracas/v1/histogram.proto",
    "fracas/v1/node.proto",
    "fracas/v1/proxy.proto",
    "fracas/v1/report.proto",
    "fracas/v1/rule.proto",
    "fracas/v1/run.proto",
];
const CODE: &str = "fracas.v1.rs";
const DESCRIPTORS: &str = "fracas.v1.binpb";

/// Compiles the `.proto` files in this process; comments come along, imports too.
fn descriptors() -> FileDescriptorSet {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    protox::compile(FILES.map(|file| root.join(file)), [root]).expect("the .proto files compile")
}

/// Writes the Rust code for `descriptors` into `directory`.
fn generate_code(descriptors: FileDescriptorSet, directory: &Path) {
    tonic_prost_build::configure()
        // Maps keep their order: the same message is always the same bytes and the same text.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(directory)
        .compile_fds(descriptors)
        .expect("the code is generated");
}

#[test]
fn committed_code_and_descriptors_are_what_the_proto_files_say() {
    let descriptors = descriptors();
    let encoded = descriptors.encode_to_vec();
    let directory = tempfile::tempdir().expect("a temporary directory");
    generate_code(descriptors, directory.path());
    let code = fs::read(directory.path().join(CODE)).expect("one file for the one package");

    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if env::var_os("FRACAS_REGENERATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(&committed).expect("src/gen can be made");
        fs::write(committed.join(CODE), &code).expect("src/gen can be written");
        fs::write(committed.join(DESCRIPTORS), &encoded).expect("src/gen can be written");
    }
    for (name, expected) in [(CODE, code), (DESCRIPTORS, encoded)] {
        let found = fs::read(committed.join(name)).unwrap_or_default();
        assert!(
            found == expected,
            "src/gen/{name} is stale; run: FRACAS_REGENERATE=1 cargo test -p fracas-proto --test generated"
        );
    }
}

#[test]
fn every_proto_file_is_compiled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fracas/v1");
    let mut found: Vec<_> = fs::read_dir(folder)
        .expect("fracas/v1 is there")
        .map(|entry| format!("fracas/v1/{}", entry.expect("an entry").file_name().to_string_lossy()))
        .collect();
    found.sort();
    assert_eq!(found, FILES);
}
