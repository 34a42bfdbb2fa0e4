//! Certificates for tests: an authority, and what it signs.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SigningKey as _,
};

/// A certificate with its private key, both in PEM form.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// An authority of the test's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pair: Pair,
}

impl Authority {
    /// Makes an authority that signs itself, for these host names too.
    pub(crate) fn new(name: &str, hosts: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = params(name, hosts);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key).expect("the authority can sign itself");
        let pair = Pair { cert: cert.pem(), key: key.serialize_pem() };
        Self { issuer: Issuer::new(params, key), pair }
    }

    /// Signs a certificate with this common name, for these host names and addresses.
    pub(crate) fn sign(&self, name: &str, hosts: &[&str]) -> Pair {
        self.sign_params(&params(name, hosts))
    }

    /// Signs a certificate that ended in 2001.
    pub(crate) fn sign_expired(&self, name: &str, hosts: &[&str]) -> Pair {
        let mut params = params(name, hosts);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.sign_params(&params)
    }

    /// Signs a certificate and a list that takes it back.
    pub(crate) fn sign_revoked(&self, name: &str, hosts: &[&str]) -> (Pair, String) {
        let mut params = params(name, hosts);
        params.serial_number = Some(7_u64.into());
        let day = |year| rcgen::date_time_ymd(year, 1, 1);
        let list = CertificateRevocationListParams {
            this_update: day(2020),
            next_update: day(3000),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: 7_u64.into(),
                revocation_time: day(2020),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("the list can be signed");
        (self.sign_params(&params), list.pem().expect("the list has a PEM form"))
    }

    fn sign_params(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("the certificate can be signed");
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// Signs a certificate of X.509 version 1, as `openssl x509 -req` made it without an extension file.
    pub(crate) fn sign_version_one(&self, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key can be made");
        let modern = params(name, &[]).signed_by(&key, &self.issuer).expect("the certificate can be signed");
        let parts = children(content(modern.der()));
        // Without the tags [0] (version) and [3] (extensions) it is one of version 1.
        let plain: Vec<&[u8]> = children(content(parts[0])).into_iter().filter(|part| part[0] & 0xe0 != 0xa0).collect();
        let body = wrap(0x30, &plain.concat());
        let mut signature = vec![0];
        signature.extend(self.issuer.key().sign(&body).expect("the authority can sign"));
        let whole = wrap(0x30, &[body, parts[1].to_vec(), wrap(3, &signature)].concat());
        let text = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(&whole));
        Pair { cert: text, key: key.serialize_pem() }
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("the names are well formed");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Returns the length of a DER element's head and of its content.
fn lengths(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ 0..0x80 => (2, usize::from(short)),
        long => {
            let count = usize::from(long & 0x7f);
            (2 + count, der[2..2 + count].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
        }
    }
}

fn content(der: &[u8]) -> &[u8] {
    let (head, length) = lengths(der);
    &der[head..head + length]
}

fn children(mut der: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let (head, length) = lengths(der);
        let (part, rest) = der.split_at(head + length);
        parts.push(part);
        der = rest;
    }
    parts
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a certificate is small").to_be_bytes();
    let mut der = vec![tag, 0x82, length[0], length[1]];
    if content.len() < 0x80 {
        der = vec![tag, length[1]];
    } else if length[0] == 0 {
        der = vec![tag, 0x81, length[1]];
    }
    der.extend(content);
    der
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = char::from(DIGITS[word >> (18 - 6 * at) & 63]);
            text.push(if at > chunk.len() { '=' } else { digit });
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    text
}
