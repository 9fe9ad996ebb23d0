//! PEM files → what a server proves itself with, and what a client trusts. The cryptography is ring's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Takes handshakes.
pub type Acceptor = TlsAcceptor;

/// The protocol of gRPC, as ALPN names it.
pub const HTTP_2: &str = "h2";
/// What a browser or `curl` may speak as well.
pub const HTTP_1: &str = "http/1.1";

/// Why a file gives no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// It is not there, or not for us.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No PEM, or of something else.
    #[error("{} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)", .0.display())]
    NoCertificate(PathBuf),
    /// It is PEM of something else, or under a password.
    #[error("{} holds no private key in PEM without a password (-----BEGIN PRIVATE KEY-----)", .0.display())]
    NoKey(PathBuf),
    /// A certificate that TLS cannot use.
    #[error("the certificate in {} cannot be used: {reason}", file.display())]
    BadCertificate {
        /// Which one.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A key that TLS cannot use.
    #[error("the private key in {} cannot be used: {reason}", file.display())]
    BadKey {
        /// Which one.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Two files of two pairs.
    #[error("the private key in {} does not belong to the certificate in {}; its own must come first there", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A machine without `ca-certificates`.
    #[error("this machine knows no certificate authority ({0}); name one with --tls-ca FILE")]
    NoRoots(String),
}

fn read(file: &Path) -> Result<Vec<u8>, TlsFileError> {
    std::fs::read(file).map_err(|source| TlsFileError::Unreadable { file: file.to_owned(), source })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsFileError::NoCertificate(file.to_owned())),
    }
}

/// The first certificate in a file: the server's own.
///
/// # Errors
/// One line that names the file.
pub fn leaf(file: &Path) -> Result<CertificateDer<'static>, TlsFileError> {
    certificates(file).map(|mut chain| chain.swap_remove(0))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What a server proves itself with: the certificate in `certificate`, followed by those that lead to its CA, and its
/// key in `key`. `protocols` are offered by ALPN, the best first.
///
/// # Errors
/// One line that names the file at fault.
pub fn acceptor(certificate: &Path, key: &Path, protocols: &[&str]) -> Result<Acceptor, TlsFileError> {
    let chain = certificates(certificate)?;
    let secret =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| TlsFileError::NoKey(key.to_owned()))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of both versions")
        .with_no_client_auth();
    let mut config = builder.with_single_cert(chain, secret).map_err(|why| match why {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsFileError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        Error::InvalidCertificate(why) => {
            TlsFileError::BadCertificate { file: certificate.to_owned(), reason: why.to_string() }
        }
        why => TlsFileError::BadKey { file: key.to_owned(), reason: why.to_string() },
    })?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What a client trusts: the CA in `ca` and no other, or those of this machine.
///
/// The machine's own list rather than one built in: its keepers renew it, and put their private CA there.
///
/// # Errors
/// One line that names the file at fault.
pub fn connector(ca: Option<&Path>) -> Result<TlsConnector, TlsFileError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|why| TlsFileError::BadCertificate {
                    file: file.to_owned(),
                    reason: why.to_string(),
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // One that cannot be parsed is left out, as everybody does: the list has hundreds.
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                let reason = found.errors.first().map_or("its list is empty".to_owned(), ToString::to_string);
                return Err(TlsFileError::NoRoots(reason));
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_2.as_bytes().to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with `cert.pem`, its `key.pem`, another `other.pem`, and files that are neither.
    fn files() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (mine, other) = (pair(), pair());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (name, text) in [
            ("cert.pem", mine.cert.pem()),
            ("key.pem", mine.signing_key.serialize_pem()),
            ("other.pem", other.signing_key.serialize_pem()),
            ("empty.pem", String::new()),
            ("broken.pem", broken.to_owned()),
            ("bad-key.pem", broken.replace("CERTIFICATE", "PRIVATE KEY")),
            ("encrypted.pem", encrypted.to_owned()),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn a_pair_serves_and_its_certificate_can_be_trusted() {
        let files = files();
        let at = |name: &str| files.path().join(name);
        assert!(acceptor(&at("cert.pem"), &at("key.pem"), &[HTTP_2, HTTP_1]).is_ok());
        assert!(connector(Some(&at("cert.pem"))).is_ok());
    }

    #[test]
    fn each_mistake_is_one_line_that_names_its_file() {
        let files = files();
        let at = |name: &str| files.path().join(name);
        for (certificate, key, named, problem) in [
            ("cert.pem", "other.pem", "other.pem", "does not belong to the certificate in "),
            ("missing.pem", "key.pem", "missing.pem", "cannot read "),
            ("cert.pem", "missing.pem", "missing.pem", "cannot read "),
            ("empty.pem", "key.pem", "empty.pem", "holds no certificate"),
            ("key.pem", "cert.pem", "key.pem", "holds no certificate"),
            ("cert.pem", "cert.pem", "cert.pem", "holds no private key"),
            ("cert.pem", "encrypted.pem", "encrypted.pem", "holds no private key"),
            ("broken.pem", "key.pem", "broken.pem", "the certificate in "),
            ("cert.pem", "bad-key.pem", "bad-key.pem", "the private key in "),
        ] {
            let error = acceptor(&at(certificate), &at(key), &[HTTP_2]).err();
            let line = error.unwrap_or_else(|| panic!("{certificate} and {key} serve")).to_string();
            assert!(line.contains(named) && line.contains(problem), "{certificate}, {key}: {line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
        for (ca, problem) in
            [("missing.pem", "cannot read "), ("empty.pem", "holds no"), ("broken.pem", "cannot be used")]
        {
            let line = connector(Some(&at(ca))).err().expect("no trust").to_string();
            assert!(line.contains(ca) && line.contains(problem), "{line}");
        }
    }
}
