//! The certificates for Redis: whom to believe, and who we are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// The files with certificates and key; read again for each new connection, so that renewed ones are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that Redis' certificate may come from; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, for a Redis that wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// The settings for a connection, out of what the files hold now.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn settings(&self) -> Result<ClientConfig, String> {
        let named = |path: &Path, message: String| format!("{}: {message}", path.display());
        let roots = match &self.ca {
            Some(path) => authorities(path).map_err(|e| named(path, e))?,
            None => system_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS can't be set up: {e}"))?
            .with_root_certificates(roots);
        let Some((cert, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates(cert).map_err(|e| named(cert, e))?;
        let secret = private_key(key).map_err(|e| named(key, e))?;
        builder.with_client_auth_cert(chain, secret).map_err(|e| named(key, does_not_fit(&e)))
    }
}

fn does_not_fit(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "the key is not the one of the certificate".to_owned(),
        other => format!("certificate and key can't be used: {other}"),
    }
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err("no root certificates were found to verify Redis with: install the system's package of them (on \
                    Debian: ca-certificates), or name your own authority's with store.redis_ca"
            .to_owned());
    }
    Ok(roots)
}

/// The authorities in a file of PEM.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| format!("a certificate in this file can't be used: {e}"))?;
    }
    Ok(roots)
}

/// The certificates in a file of PEM: at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in this file (PEM)".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("this file is no PEM: {error}")),
    }
}

/// The private key in a file of PEM.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) if text.windows(9).any(|w| w == b"ENCRYPTED") => {
            Err("the private key in this file is encrypted; only one without a passphrase can be used".to_owned())
        }
        Err(PemError::NoItemsFound) => Err("there is no private key in this file (PEM)".to_owned()),
        Err(error) => Err(format!("this file is no PEM: {error}")),
    }
}

/// That a certificate and a key belong together.
pub(crate) fn fit(cert: &Path, key: &Path) -> Result<(), String> {
    let files = (certificates(cert)?, private_key(key)?);
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(files.0, files.1)
        .map(drop)
        .map_err(|e| does_not_fit(&e))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("this file can't be read: {e}"))
}
