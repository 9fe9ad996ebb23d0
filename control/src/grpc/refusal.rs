//! Errors as `google.rpc.Status`: one `ErrorInfo` each, and the field for what does not parse.

use std::collections::HashMap;

use fracas_dataplane::behavior::BehaviorError;
use fracas_dataplane::behavior::mix::MixError;
use fracas_dataplane::proxy::ProxyError;
use fracas_dataplane::proxy::leases::LeaseError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::checked::CheckError;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "fracas";

/// Bytes of one text of an error. Callers are told what they have said, and may have said a lot; an answer whose head is
/// too long is none to most clients.
const TEXT_BYTES_MAX: usize = 2_048;

/// The beginning of `text`, if it is too long.
fn short(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

/// An error with a reason in capitals; every changing part of `message` stands in `metadata` as well.
pub fn refuse(code: Code, reason: &str, message: impl ToString, metadata: &[(&str, String)]) -> Status {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), short(value.clone()))).collect();
    Status::with_error_details(
        code,
        short(message.to_string()),
        ErrorDetails::with_error_info(reason, DOMAIN, metadata),
    )
}

/// A field that does not parse or contradicts another; `field` is its full path: `changes[0].rules.mix`.
pub fn invalid(field: impl Into<String>, description: impl ToString) -> Status {
    let (field, description) = (short(field.into()), short(description.to_string()));
    let mut details = ErrorDetails::with_bad_request_violation(field.clone(), description.clone());
    details.set_error_info("INVALID_FIELD", DOMAIN, HashMap::from([("field".to_owned(), field.clone())]));
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {description}"), details)
}

/// A behavior that cannot be made of the text in `field`.
pub fn behavior(field: &str, error: &BehaviorError) -> Status {
    match error {
        BehaviorError::NotBuilt { name, .. } => refuse(
            Code::Unimplemented,
            "BEHAVIOR_NOT_BUILT",
            error,
            &[("behavior", (*name).to_owned()), ("field", field.to_owned())],
        ),
        BehaviorError::UnknownOption { option, .. } => invalid(format!("{field}.options[{option}]"), error),
        BehaviorError::BadOption { option, .. } | BehaviorError::MissingOption { option, .. } => {
            invalid(format!("{field}.options[{option}]"), error)
        }
        BehaviorError::Unknown { .. } => invalid(format!("{field}.behavior"), error),
    }
}

/// A mix that does not parse; `field` is the path of its `RuleSet`.
pub fn mix(field: &str, error: &MixError) -> Status {
    match error {
        MixError::Behavior(inner @ BehaviorError::NotBuilt { .. }) => behavior(field, inner),
        MixError::Behavior(BehaviorError::UnknownOption { behavior, option, .. }) => {
            invalid(format!("{field}.options[{behavior}].values[{option}]"), error)
        }
        MixError::Behavior(
            BehaviorError::BadOption { behavior, option, .. }
            | BehaviorError::MissingOption { behavior, option, .. },
        ) => invalid(format!("{field}.options[{behavior}].values[{option}]"), error),
        MixError::UnusedOptions { option, .. } => invalid(format!("{field}.options[{option}]"), error),
        _ => invalid(format!("{field}.mix"), error),
    }
}

/// What the data plane refused; `field` is where a bad rule, time or name would stand in the request.
pub fn proxy(error: &ProxyError, field: &str) -> Status {
    match error {
        ProxyError::NotFound { name, .. } => {
            refuse(Code::NotFound, "PROXY_NOT_FOUND", error, &[("proxy", name.clone())])
        }
        ProxyError::Exists(name) => {
            refuse(Code::AlreadyExists, "PROXY_EXISTS", error, &[("proxy", name.clone())])
        }
        ProxyError::Listen { listen, source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            refuse(Code::AlreadyExists, "ADDRESS_IN_USE", error, &[("listen", listen.to_string())])
        }
        ProxyError::Listen { .. }
        | ProxyError::NoUpstream(_)
        | ProxyError::Rules { .. }
        | ProxyError::RuleName { .. } => invalid(field, error),
        // A call that makes a proxy is the only one that says them.
        ProxyError::TooManySources(_) => invalid("proxy.source_addresses", error),
        ProxyError::Stale { name, expected, found } => refuse(
            Code::Aborted,
            "STALE_GENERATION",
            error,
            &[("proxy", name.clone()), ("expected", expected.to_string()), ("found", found.to_string())],
        ),
        ProxyError::Lease(LeaseError::TooMany | LeaseError::TooManyRules(_)) => {
            refuse(Code::ResourceExhausted, "TOO_MANY_LEASES", error, &[])
        }
        ProxyError::Lease(LeaseError::Gone(id)) => {
            refuse(Code::NotFound, "LEASE_NOT_FOUND", error, &[("lease", id.to_string())])
        }
        ProxyError::Lease(_) => invalid(field, error),
        ProxyError::LeaseNotFound(id) => {
            refuse(Code::NotFound, "LEASE_NOT_FOUND", error, &[("lease", id.clone())])
        }
        ProxyError::UpstreamRefused { name, .. } => {
            refuse(Code::PermissionDenied, "UPSTREAM_REFUSED", error, &[("proxy", name.clone())])
        }
        ProxyError::TooMany => refuse(Code::ResourceExhausted, "TOO_MANY_PROXIES", error, &[]),
        ProxyError::Stopped => draining(),
    }
}

/// A proxy that is not allowed; `field` is where what is wrong would stand in the request.
pub fn checked(error: &CheckError, field: &str) -> Status {
    match error {
        CheckError::Proxy(error) => proxy(error, field),
        CheckError::Loop { .. } => invalid(field, error),
        CheckError::Upstream { upstream, .. } => refuse(
            Code::PermissionDenied,
            "UPSTREAM_REFUSED",
            format!("{field}: {error}"),
            &[("field", field.to_owned()), ("upstream", upstream.clone())],
        ),
    }
}

/// The process is shutting down.
pub fn draining() -> Status {
    refuse(Code::Unavailable, "DRAINING", "the proxy is shutting down; start it again", &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_named_by_its_path_and_has_one_error_info() {
        let status = invalid("changes[0].rules.mix", "`x` is not a percentage");
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "changes[0].rules.mix");
        assert_eq!(violations[0].description, "`x` is not a percentage");
    }

    #[test]
    fn a_caller_who_said_much_is_not_told_all_of_it() {
        let much = "é".repeat(1_000_000);
        for status in [
            refuse(Code::NotFound, "X", format!("there is no `{much}`"), &[("proxy", much.clone())]),
            invalid(format!("labels[{much}]"), &much),
            proxy(&ProxyError::NotFound { name: much.clone(), nearest: None }, "name"),
        ] {
            // In the head of an answer each byte that is not ASCII takes three, and details stand in base64.
            let bytes = 3 * status.message().len() + status.details().len() * 4 / 3;
            assert!(status.message().starts_with(['t', 'l']) && status.message().ends_with('…'));
            assert!(bytes < 6 * 4 * TEXT_BYTES_MAX, "{bytes}");
        }
        assert_eq!(short("é".repeat(TEXT_BYTES_MAX / 2)).len(), TEXT_BYTES_MAX);
    }

    #[test]
    fn each_refusal_of_the_data_plane_has_its_code_and_reason() {
        let missing = ProxyError::NotFound { name: "redsi".into(), nearest: Some("redis".into()) };
        let stale = ProxyError::Stale { name: "redis".into(), expected: 3, found: 4 };
        for (error, code, reason) in [
            (missing, Code::NotFound, "PROXY_NOT_FOUND"),
            (ProxyError::Exists("redis".into()), Code::AlreadyExists, "PROXY_EXISTS"),
            (stale, Code::Aborted, "STALE_GENERATION"),
            (ProxyError::TooManySources("redis".into()), Code::InvalidArgument, "INVALID_FIELD"),
            (ProxyError::LeaseNotFound("0-1".into()), Code::NotFound, "LEASE_NOT_FOUND"),
            (ProxyError::Lease(LeaseError::TooMany), Code::ResourceExhausted, "TOO_MANY_LEASES"),
            (ProxyError::TooMany, Code::ResourceExhausted, "TOO_MANY_PROXIES"),
            (ProxyError::Stopped, Code::Unavailable, "DRAINING"),
        ] {
            let status = proxy(&error, "x");
            assert_eq!(status.code(), code);
            assert_eq!(status.get_error_details().error_info().unwrap().reason, reason);
        }
    }
}
