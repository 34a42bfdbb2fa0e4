//! The TLS configuration for a connection: libpq's semantics (PostgreSQL manual, 34.19), rustls' cryptography.
//!
//! `sslmode` decides the most; but where a root certificate is there, the chain is verified in the weaker modes too,
//! as libpq does. Whether TLS is tried at all, and in which order, is decided in [`super::connect`].

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::certificate::{Trust, Verification, Verifier};
use super::conninfo::{RootCert, SslMode, SslNegotiation, TlsSettings, TlsVersion};
use crate::error::{ErrorKind, StepError};

/// Returns the configuration for these settings; reads the certificate files.
///
/// With `sslmode=disable`, and where TLS cannot be `wanted` (a socket), no file is read, and the configuration is there
/// only to be of the right type.
///
/// # Errors
/// A file that cannot be read or does not hold what it should; a private key that others may read.
pub(super) fn client_config(settings: &TlsSettings, wanted: bool) -> Result<ClientConfig, StepError> {
    let provider = Arc::new(ring::default_provider());
    let off = !wanted || settings.mode == SslMode::Disable;
    let verification = if off { Verification::KeyOnly } else { verification(settings, &provider)? };
    let versions: Vec<&'static SupportedProtocolVersion> =
        [(TlsVersion::V1_2, &version::TLS12), (TlsVersion::V1_3, &version::TLS13)]
            .into_iter()
            .filter(|(name, _)| (settings.min_version..=settings.max_version).contains(name))
            .map(|(_, version)| version)
            .collect();
    let verifier = Verifier { verification, algorithms: provider.signature_verification_algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| StepError::new(ErrorKind::Plan, format!("no TLS version can be used: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match settings.cert.as_deref().filter(|_| !off) {
        Some(cert) => {
            let (chain, key) = client_certificate(settings, cert)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                unusable("client certificate", cert, &error.to_string())
                    .help("let sslcert and sslkey name a certificate and the private key that belongs to it")
            })?
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.sni;
    if settings.negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn verification(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Verification, StepError> {
    let by_name = settings.mode == SslMode::VerifyFull;
    let Some(root_cert) = &settings.root_cert else {
        return if by_name || settings.mode == SslMode::VerifyCa {
            Err(StepError::new(ErrorKind::Authentication, "verifying the server's certificate needs root certificates")
                .help("set sslrootcert to a file of trusted certificates, or to `system` with sslmode=verify-full"))
        } else {
            Ok(Verification::KeyOnly)
        };
    };
    let mut store = RootCertStore::empty();
    let mut roots = Vec::new();
    match root_cert {
        RootCert::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let new = StepError::new(ErrorKind::Authentication, "the system has no trusted root certificates");
                return Err(new.help("install ca-certificates, or let sslrootcert name a file"));
            }
        }
        RootCert::File(path) => {
            roots = pem_items::<CertificateDer<'static>>("root certificate", path)?;
            let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
            if added == 0 {
                return Err(unusable("root certificate", path, "it holds no usable certificate"));
            }
        }
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    if let Some(path) = &settings.crl {
        builder = builder.with_crls(pem_items::<CertificateRevocationListDer<'static>>("revocation list", path)?);
    }
    let webpki = builder.build().map_err(|error| {
        let path = settings.crl.as_deref().unwrap_or(Path::new("sslrootcert"));
        unusable("revocation list", path, &error.to_string())
    })?;
    let trust = Trust { webpki, roots, has_crl: settings.crl.is_some() };
    Ok(if by_name { Verification::ChainAndName(trust) } else { Verification::Chain(trust) })
}

fn client_certificate(
    settings: &TlsSettings,
    cert: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), StepError> {
    let chain = pem_items("client certificate", cert)?;
    let Some(path) = settings.key.as_deref() else {
        return Err(unusable("client certificate", cert, "its private key is missing").help("set sslkey"));
    };
    let meta = fs::metadata(path).map_err(|error| StepError::io("read the private key", path, &error))?;
    // As libpq: nobody else; a group may read what belongs to root.
    let forbidden = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.permissions().mode() & forbidden != 0 {
        let new = unusable("private key", path, "others may read it");
        return Err(new.help(format!("chmod 600 {}", path.display())));
    }
    let bytes = fs::read(path).map_err(|error| StepError::io("read the private key", path, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes);
    let key = key.or_else(|error| PrivateKeyDer::try_from(bytes.clone()).map_err(|_| error)).map_err(|error| {
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("ENCRYPTED") {
            unusable("private key", path, "it is encrypted, which pgplan does not support")
                .help("decrypt it into a file of mode 600 with `openssl pkey`, and let sslkey name that")
        } else {
            unusable("private key", path, &error.to_string())
        }
    })?;
    Ok((chain, key))
}

fn pem_items<T: PemObject>(what: &str, path: &Path) -> Result<Vec<T>, StepError> {
    let bytes = fs::read(path).map_err(|error| StepError::io(&format!("read the {what}"), path, &error))?;
    let items: Result<Vec<T>, pem::Error> = T::pem_slice_iter(&bytes).collect();
    match items {
        Ok(items) if items.is_empty() => Err(unusable(what, path, "it holds nothing of that kind in PEM form")),
        Ok(items) => Ok(items),
        Err(error) => Err(unusable(what, path, &error.to_string())),
    }
}

fn unusable(what: &str, path: &Path, why: &str) -> StepError {
    StepError::new(ErrorKind::Authentication, format!("cannot use the {what} {}: {why}", path.display()))
        .help("correct the file, or the setting that names it")
}
