//! The cluster's certificate authority, the server's and the administrator's certificates, and the kubeconfig.
//!
//! On disk: `<state>/pki/{ca,server,admin}.{crt,key}`, keys readable by their owner only. The authority is made once;
//! the other two are made again when they near their end, when the authority changed, or when the server got new names.
//!
//! Invariant: a file is complete or absent (temporary name, fsync, rename).

use crate::clock::Clock;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use x509_parser::{extensions::GeneralName, prelude::*};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A certificate with less than this left is made again.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("make the certificate {name}")]
    Make { name: &'static str, source: rcgen::Error },
    #[error("{} is not what it should be: {what}", path.display())]
    Broken { path: PathBuf, what: String },
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// Everything the scheduler serves and hands out.
#[derive(Clone)]
pub struct Pki {
    pub ca: String,
    pub server: Pair,
    pub admin: Pair,
}

/// Who a client certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// Reads `dir`, and makes what is missing or due. `names` are host names and addresses the server is reached by.
pub fn load(dir: &Path, names: &BTreeSet<String>, clock: &Clock) -> Result<Pki, PkiError> {
    fs::create_dir_all(dir).map_err(|source| PkiError::File {
        action: "create",
        path: dir.into(),
        source,
    })?;
    let now = clock.now();
    let ca = match read(dir, "ca")? {
        Some(pair) => pair,
        None => write(dir, "ca", make_ca(now)?)?,
    };
    let key = KeyPair::from_pem(&ca.key).map_err(|error| broken(dir, "ca.key", &error))?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca.certificate, key).map_err(|error| broken(dir, "ca.crt", &error))?;
    let current = |name, names| Ok(read(dir, name)?.filter(|pair| serves(pair, &ca, names, now)));
    let server = match current("server", Some(names))? {
        Some(pair) => pair,
        None => write(dir, "server", make_server(&issuer, names, now)?)?,
    };
    let admin = match current("admin", None)? {
        Some(pair) => pair,
        None => write(dir, "admin", make_admin(&issuer, now)?)?,
    };
    Ok(Pki { ca: ca.certificate, server, admin })
}

/// What kubectl needs to be the cluster's administrator.
pub fn kubeconfig(pki: &Pki, server_url: &str) -> String {
    let data = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: wherry\n\
         clusters:\n- name: wherry\n  cluster:\n    server: {server_url}\n    certificate-authority-data: {}\n\
         users:\n- name: wherry-admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n- name: wherry\n  context:\n    cluster: wherry\n    user: wherry-admin\n",
        data(&pki.ca),
        data(&pki.admin.certificate),
        data(&pki.admin.key),
    )
}

/// Replaces `path` in one step; only its owner can read it.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let failed = |action| move |source| PkiError::File { action, path: path.into(), source };
    // On a full disk, what is there already still serves.
    let private = fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == 0o600);
    if private && fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed("create the directory of"))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(parent)?.sync_all()
    };
    write().map_err(failed("write"))
}

/// The subject of a client certificate that was already verified: CN is the user, each O a group.
pub fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let text = |attribute: &AttributeTypeAndValue| attribute.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().next().and_then(text)?;
    Some(User { name, groups: subject.iter_organization().filter_map(text).collect() })
}

impl Pki {
    /// The authority's certificate for rustls.
    pub fn ca_der(&self) -> Result<CertificateDer<'static>, String> {
        CertificateDer::from_pem_slice(self.ca.as_bytes()).map_err(|error| error.to_string())
    }
}

impl Pair {
    /// Decodes for rustls.
    pub fn der(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
        let certificate =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| error.to_string())?;
        Ok((certificate, key))
    }
}

fn read(dir: &Path, name: &str) -> Result<Option<Pair>, PkiError> {
    let file = |extension: &str| {
        let path = dir.join(format!("{name}.{extension}"));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PkiError::File { action: "read", path, source }),
        }
    };
    Ok(match (file("crt")?, file("key")?) {
        (Some(certificate), Some(key)) => Some(Pair { certificate, key }),
        _ => None,
    })
}

/// The certificate is written last: a pair whose writing was interrupted is not found.
fn write(dir: &Path, name: &'static str, pair: Pair) -> Result<Pair, PkiError> {
    let certificate = dir.join(format!("{name}.crt"));
    match fs::remove_file(&certificate) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(PkiError::File { action: "remove", path: certificate, source: error });
        }
        _ => {}
    }
    write_private(&dir.join(format!("{name}.key")), pair.key.as_bytes())?;
    write_private(&certificate, pair.certificate.as_bytes())?;
    Ok(pair)
}

fn broken(dir: &Path, file: &str, error: &impl std::fmt::Display) -> PkiError {
    PkiError::Broken { path: dir.join(file), what: error.to_string() }
}

/// Whether a pair was issued by `ca`, lasts a while, and has all of `names`.
fn serves(pair: &Pair, ca: &Pair, names: Option<&BTreeSet<String>>, now: SystemTime) -> bool {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let (Some(leaf), Some(ca)) = (der(&pair.certificate), der(&ca.certificate)) else { return false };
    let (Ok((_, leaf)), Ok((_, ca))) = (X509Certificate::from_der(&leaf), X509Certificate::from_der(&ca))
    else {
        return false;
    };
    let renew_at = ::time::OffsetDateTime::from(now + RENEW_BEFORE).unix_timestamp();
    if leaf.validity().not_after.timestamp() < renew_at
        || leaf.verify_signature(Some(ca.public_key())).is_err()
    {
        return false;
    }
    let Some(names) = names else { return true };
    let Ok(Some(present)) = leaf.subject_alternative_name() else { return false };
    let present: BTreeSet<String> = present.value.general_names.iter().filter_map(general_name).collect();
    names.is_subset(&present)
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    }
}

fn params(common_name: &str, life: Duration, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - DAY).into();
    params.not_after = (now + life).into();
    params
}

fn make_ca(now: SystemTime) -> Result<Pair, PkiError> {
    let made = || {
        let mut params = params("wherry-ca", CA_LIFE, now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Pair { certificate: issuer.pem(), key: issuer.key().serialize_pem() })
    };
    made().map_err(|source| PkiError::Make { name: "ca", source })
}

fn make_server(
    issuer: &Issuer<'_, KeyPair>,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<Pair, PkiError> {
    let made = || {
        let mut params = params("wherry-scheduler", LEAF_LIFE, now);
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        issue(params, issuer)
    };
    made().map_err(|source| PkiError::Make { name: "server", source })
}

fn make_admin(issuer: &Issuer<'_, KeyPair>, now: SystemTime) -> Result<Pair, PkiError> {
    let made = || {
        let mut params = params("wherry-admin", LEAF_LIFE, now);
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(params, issuer)
    };
    made().map_err(|source| PkiError::Make { name: "admin", source })
}

fn issue(mut params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<Pair, rcgen::Error> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn certificates_are_kept_until_they_are_due() {
        let dir = tempfile::tempdir().expect("makes a directory");
        let clock = Clock::manual(Clock::default().now());
        let asked = names(&["localhost", "127.0.0.1", "fd00::1"]);
        let first = load(dir.path(), &asked, &clock).expect("makes them");
        let again = load(dir.path(), &asked, &clock).expect("reads them");
        assert_eq!(first.server.certificate, again.server.certificate);

        let more = names(&["localhost", "10.0.0.1"]);
        let renamed = load(dir.path(), &more, &clock).expect("makes the server's again");
        assert_ne!(first.server.certificate, renamed.server.certificate);
        assert_eq!(first.admin.certificate, renamed.admin.certificate);

        clock.advance(LEAF_LIFE - RENEW_BEFORE + DAY);
        let renewed = load(dir.path(), &more, &clock).expect("renews");
        assert_ne!(renewed.admin.certificate, renamed.admin.certificate);
        assert_eq!(renewed.ca, first.ca);
    }

    #[test]
    fn an_interrupted_write_is_made_good() {
        let dir = tempfile::tempdir().expect("makes a directory");
        let clock = Clock::default();
        let first = load(dir.path(), &names(&["localhost"]), &clock).expect("makes them");
        fs::remove_file(dir.path().join("admin.crt")).expect("removes");
        let second = load(dir.path(), &names(&["localhost"]), &clock).expect("makes them");
        assert_ne!(first.admin.key, second.admin.key);
        let (certificate, _) = second.admin.der().expect("decodes");
        let groups = vec!["system:masters".to_owned()];
        assert_eq!(user(&certificate), Some(User { name: "wherry-admin".into(), groups }));
    }
}
