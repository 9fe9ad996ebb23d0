//! What a server serves, as reflection and refusals tell it: its services alone, with the messages that they need.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::service::Routes;

use crate::wire::calls::Calls;

/// Beside the services of its own, each server has these.
const COMMON: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// The number of `service` in a FileDescriptorProto, with which the places of its comments begin.
const SERVICE_FIELD: i32 = 6;

/// Everything that is described: ours and the common ones.
fn described() -> Vec<FileDescriptorProto> {
    let sets = [
        fracas_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.into_iter().flat_map(|set| {
        FileDescriptorSet::decode(set).expect("descriptors that were made with the code").file
    });
    files.collect()
}

/// The descriptors of the services `own` and of the common ones, and nothing else that could be called.
fn descriptors(own: &[&str]) -> FileDescriptorSet {
    let mut files = described();
    for file in &mut files {
        let package = file.package().to_owned();
        let before = file.service.len();
        file.service.retain(|service| {
            let name = format!("{package}.{}", service.name());
            own.contains(&name.as_str()) || COMMON.contains(&name.as_str())
        });
        if file.service.len() < before
            && let Some(comments) = &mut file.source_code_info
        {
            comments.location.retain(|location| location.path.first() != Some(&SERVICE_FIELD));
        }
    }
    let mut needed: BTreeSet<String> =
        files.iter().filter(|file| !file.service.is_empty()).map(|file| file.name().to_owned()).collect();
    loop {
        let imports: Vec<String> = files
            .iter()
            .filter(|file| needed.contains(file.name()))
            .flat_map(|file| file.dependency.iter().cloned())
            .filter(|name| !needed.contains(name))
            .collect();
        if imports.is_empty() {
            break;
        }
        needed.extend(imports);
    }
    let mut seen = BTreeSet::new();
    files.retain(|file| needed.contains(file.name()) && seen.insert(file.name().to_owned()));
    FileDescriptorSet { file: files }
}

/// Adds reflection, v1 and v1alpha, of the services `own` and the common ones, and says which calls there are.
/// `elsewhere` tells who serves the others.
///
/// # Errors
/// When a descriptor does not hold together.
pub fn reflected(
    routes: Routes,
    own: &[&str],
    elsewhere: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> anyhow::Result<(Routes, Calls)> {
    let set = descriptors(own);
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .include_reflection_service(false)
            .register_file_descriptor_set(set.clone())
    };
    let routes = routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    let mut services = BTreeMap::new();
    for file in &set.file {
        for service in &file.service {
            let methods = service.method.iter().map(|method| method.name().to_owned()).collect();
            services.insert(format!("{}.{}", file.package(), service.name()), methods);
        }
    }
    Ok((routes, Calls::new(services, elsewhere)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(set: &FileDescriptorSet) -> BTreeSet<String> {
        let of = |file: &FileDescriptorProto| {
            let package = file.package().to_owned();
            file.service.iter().map(|service| format!("{package}.{}", service.name())).collect::<Vec<_>>()
        };
        set.file.iter().flat_map(of).collect()
    }

    #[test]
    fn only_what_is_served_is_described_and_all_that_it_needs() {
        let set = descriptors(&["fracas.v1.ProxyService"]);
        let expected: BTreeSet<String> =
            COMMON.iter().chain(&["fracas.v1.ProxyService"]).map(|name| (*name).to_owned()).collect();
        assert_eq!(services(&set), expected);
        let names: BTreeSet<&str> = set.file.iter().map(FileDescriptorProto::name).collect();
        assert_eq!(names.len(), set.file.len(), "each once");
        for file in &set.file {
            for import in &file.dependency {
                assert!(names.contains(import.as_str()), "{} needs {import}", file.name());
            }
        }
        assert!(!names.contains("fracas/v1/agent.proto"));
        let comments = set.file.iter().find(|file| file.name() == "fracas/v1/proxy.proto").unwrap();
        assert!(comments.source_code_info.is_some(), "the manual of the API comes along");
    }
}
