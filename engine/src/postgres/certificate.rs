//! Judging a server's certificate as libpq does (PostgreSQL manual, 34.19.1), on top of webpki.
//!
//! Webpki is stricter than OpenSSL in ways that the manual's own recipes for certificates (18.9.5) run into. Three
//! things are therefore judged here, and only when webpki cannot:
//! - a certificate that itself is in the root file (a self-signed one marked as an authority) is trusted as it is;
//! - a certificate of X.509 version 1, which `openssl x509 -req` made without an extension file, is accepted when a
//!   certificate of the root file signed it directly;
//! - a certificate without alternative names is compared by its common name.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Version};

/// How much of a certificate is verified.
#[derive(Debug)]
pub(super) enum Verification {
    /// That the server holds the certificate's key, and nothing more.
    KeyOnly,
    /// That a trusted authority signed it and it has not expired.
    Chain(Trust),
    /// The same, and that it names the host.
    ChainAndName(Trust),
}

/// Who is trusted.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    /// The certificates of the root file as they are; empty for the operating system's.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// With a revocation list only webpki judges: it alone reads that.
    pub(super) has_crl: bool,
}

#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) verification: Verification,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (trust, name_matters) = match &self.verification {
            Verification::KeyOnly => return Ok(ServerCertVerified::assertion()),
            Verification::Chain(trust) => (trust, false),
            Verification::ChainAndName(trust) => (trust, true),
        };
        let (_, parsed) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let by_hand = !trust.has_crl && (trust.roots.contains(end_entity) || parsed.version() == X509Version::V1);
        if by_hand {
            self.check_directly_trusted(trust, end_entity, &parsed, now)?;
            return if name_matters { check_name(&parsed, server_name) } else { Ok(ServerCertVerified::assertion()) };
        }
        match trust.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Webpki looks at the name last: all else is well.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !name_matters => Ok(ServerCertVerified::assertion()),
            Err(
                error @ Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                ),
            ) => {
                if has_names(&parsed, server_name) {
                    Err(error)
                } else {
                    check_name(&parsed, server_name)
                }
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.verify_old(message, cert, dss) {
            Some(verdict) => verdict,
            None => verify_tls12_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.verify_old(message, cert, dss) {
            Some(verdict) => verdict,
            None => verify_tls13_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    /// Checks a certificate that is trusted itself or was signed by a trusted one without anything between.
    fn check_directly_trusted(
        &self,
        trust: &Trust,
        der: &CertificateDer<'_>,
        cert: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        check_time(cert, now)?;
        if trust.roots.contains(der) {
            return Ok(());
        }
        for root in &trust.roots {
            let Ok((_, root)) = X509Certificate::from_der(root) else {
                continue;
            };
            let may_sign = root.basic_constraints().ok().flatten().is_none_or(|limits| limits.value.ca)
                && root.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
            if may_sign && root.subject().as_raw() == cert.issuer().as_raw() && self.signed_by(cert, &root) {
                return check_time(&root, now);
            }
        }
        Err(CertificateError::UnknownIssuer.into())
    }

    fn signed_by(&self, cert: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
        let named = cert.signature_algorithm.algorithm.as_bytes();
        let inner = cert.tbs_certificate.signature.algorithm.as_bytes();
        let key = issuer.public_key().subject_public_key.data.as_ref();
        named == inner
            && self.algorithms.all.iter().any(|algorithm| {
                // An AlgorithmIdentifier starts with its OID: tag, length, bytes.
                algorithm.signature_alg_id().get(2..).is_some_and(|id| id.starts_with(named))
                    && fits_key(*algorithm, issuer)
                    && algorithm
                        .verify_signature(key, cert.tbs_certificate.as_ref(), cert.signature_value.data.as_ref())
                        .is_ok()
            })
    }

    /// Verifies the handshake's signature for a certificate of version 1, which webpki does not read.
    fn verify_old(
        &self,
        message: &[u8],
        der: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Option<Result<HandshakeSignatureValid, Error>> {
        let (_, cert) = X509Certificate::from_der(der).ok().filter(|(_, cert)| cert.version() == X509Version::V1)?;
        let Some((_, algorithms)) = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme) else {
            return Some(Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()));
        };
        let key = cert.public_key().subject_public_key.data.as_ref();
        let valid = algorithms.iter().any(|algorithm| {
            fits_key(*algorithm, &cert) && algorithm.verify_signature(key, message, dss.signature()).is_ok()
        });
        let verdict =
            if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) };
        Some(verdict)
    }
}

fn fits_key(algorithm: &dyn rustls::pki_types::SignatureVerificationAlgorithm, cert: &X509Certificate<'_>) -> bool {
    let key = &cert.public_key().algorithm;
    let id = algorithm.public_key_alg_id();
    let Some(rest) = id.get(2..).and_then(|id| id.strip_prefix(key.algorithm.as_bytes())) else {
        return false;
    };
    // For an elliptic curve the curve follows; for RSA a null or nothing.
    match key.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok()) {
        Some(curve) => rest.get(2..) == Some(curve.as_bytes()),
        None => true,
    }
}

fn check_time(cert: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds > cert.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if seconds < cert.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

/// Returns whether the certificate has alternative names that rule the common name out, as libpq decides it: names of
/// hosts always, addresses when an address is looked for.
fn has_names(cert: &X509Certificate<'_>, wanted: &ServerName<'_>) -> bool {
    let names = alternative_names(cert);
    let wants_address = matches!(wanted, ServerName::IpAddress(_));
    names.iter().any(|name| match name {
        GeneralName::DNSName(_) => true,
        GeneralName::IPAddress(_) => wants_address,
        _ => false,
    })
}

fn alternative_names<'a>(cert: &'a X509Certificate<'_>) -> &'a [GeneralName<'a>] {
    cert.subject_alternative_name().ok().flatten().map_or(&[], |names| names.value.general_names.as_slice())
}

/// Compares the host with the certificate's alternative names, or with its common name when it has none.
fn check_name(cert: &X509Certificate<'_>, wanted: &ServerName<'_>) -> Result<ServerCertVerified, Error> {
    let host = wanted.to_str();
    let common =
        || cert.subject().iter_common_name().filter_map(|name| name.as_str().ok()).any(|name| fits(name, &host));
    let address: Option<std::net::IpAddr> = host.parse().ok();
    let matches = if has_names(cert, wanted) {
        alternative_names(cert).iter().any(|name| match (name, address) {
            (GeneralName::DNSName(name), None) => fits(name, &host),
            (GeneralName::IPAddress(bytes), Some(std::net::IpAddr::V4(ip))) => *bytes == ip.octets(),
            (GeneralName::IPAddress(bytes), Some(std::net::IpAddr::V6(ip))) => *bytes == ip.octets(),
            _ => false,
        })
    } else {
        common()
    };
    if matches { Ok(ServerCertVerified::assertion()) } else { Err(CertificateError::NotValidForName.into()) }
}

/// Returns whether a name, with a star for its first label perhaps, fits the host.
fn fits(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return !name.is_empty();
    }
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((first, rest))) => {
            !is_address && !first.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn names_fit_with_one_star_for_the_first_label() {
        for (name, host, expected) in [
            ("db.example.org", "DB.example.org", true),
            ("*.example.org", "db.example.org", true),
            ("*.example.org", "a.db.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("*", "localhost", false),
            ("*.0.0.1", "127.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("", "", false),
        ] {
            assert_eq!(fits(name, host), expected, "{name} {host}");
        }
    }
}
