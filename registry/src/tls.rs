//! TLS with certificates that are trusted as docker trusts them: they vouch for servers, or are the server's own.
//!
//! What `openssl req -x509` makes is the second: its own authority (`CA:TRUE`) and a server at once, which the TLS library takes for
//! neither. ureq's own connector has no place for another opinion, so [`Encrypt`] stands where that would.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
    time,
};

/// What a client proves itself by.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Makes connections TLS where the address asks for it: to a host, and to the proxy before it if that wants to be spoken to over TLS.
#[derive(Debug)]
pub(crate) struct Encrypt {
    pub(crate) host: Session,
    /// `None` if no proxy stands between.
    pub(crate) proxy: Option<Session>,
}

/// Whom TLS is made with.
#[derive(Debug, Clone)]
pub(crate) struct Session(Arc<ClientConfig>);

/// A connection over TLS.
pub(crate) struct Encrypted<T: Transport> {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter<T>>,
}

/// Trusts who is known, and whom they have signed.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` if nobody is known.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    known: Vec<CertificateDer<'static>>,
}

/// Trusts whoever answers, and looks at nothing.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl Session {
    /// Trusts `known`; of these, what is no certificate is left out. Errors: key and certificate of `own` do not go together.
    pub(crate) fn new(known: Vec<CertificateDer<'static>>, own: Option<Identity>) -> Result<Self, Error> {
        // Named here: rustls chooses none by itself.
        let provider = Arc::new(ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let verifier = Arc::new(Verifier::new(known, provider));
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        Ok(Self(Arc::new(match own {
            Some(own) => builder.with_client_auth_cert(own.chain, own.key)?,
            None => builder.with_no_client_auth(),
        })))
    }

    /// With whoever answers.
    pub(crate) fn with_anybody() -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)));
        Ok(Self(Arc::new(builder.with_no_client_auth())))
    }
}

impl Encrypt {
    /// Whom the connection that is being made is with.
    fn session(&self, details: &ConnectionDetails<'_>) -> &Session {
        // The one to the proxy is made without a proxy.
        match &self.proxy {
            Some(proxy) if details.config.proxy().is_none() => proxy,
            _ => &self.host,
        }
    }
}

impl<T: Transport> Connector<T> for Encrypt {
    type Out = Either<T, Encrypted<T>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<T>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(plain) = chained else { return Ok(None) };
        if !details.needs_tls() || plain.is_tls() {
            return Ok(Some(Either::A(plain)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|_| ureq::Error::Tls("not a host's name"))?;
        let mut below = TransportAdapter::new(plain, details.current_time.clone());
        below.set_timeout(left(details.timeout, details.now, (details.current_time)()));
        let mut session = ClientConnection::new(self.session(details).0.clone(), name)?;
        session.complete_io(&mut below)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned::new(session, below);
        Ok(Some(Either::B(Encrypted { buffers: LazyBuffers::new(input, output), stream })))
    }
}

impl<T: Transport> Transport for Encrypted<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl<T: Transport> fmt::Debug for Encrypted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Encrypted").field(self.stream.sock.get_ref()).finish()
    }
}

impl Verifier {
    fn new(known: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Self {
        let mut roots = RootCertStore::empty();
        let _counts = roots.add_parsable_certificates(known.iter().cloned());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        // Fails where there is no authority, and for nothing else without lists of what is revoked.
        Self { provider, authorities: builder.build().ok(), known }
    }
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
        let Some(authorities) = &self.authorities else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Comes after a look at its dates, and before one at its name.
            Err(error) if is_nobodys(&error) && self.known.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What is left of `limit`, which holds from `start` on.
fn left(limit: NextTimeout, start: time::Instant, now: time::Instant) -> NextTimeout {
    let after = match (limit.after, start, now) {
        (time::Duration::Exact(limit), time::Instant::Exact(start), time::Instant::Exact(now)) => {
            limit.saturating_sub(now.saturating_duration_since(start)).into()
        }
        (after, ..) => after,
    };
    NextTimeout { after, ..limit }
}

/// Whether nobody vouches for a certificate, also because it is an authority's itself.
fn is_nobodys(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer)) || is_authoritys(error)
}

/// Whether what a server has shown is an authority's own certificate.
pub(crate) fn is_authoritys(error: &Error) -> bool {
    // The library below has no word of its own for it.
    matches!(error, Error::InvalidCertificate(CertificateError::Other(inner)) if inner.0.to_string() == "CaUsedAsEndEntity")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// Of `localhost`, an authority's, from 2026 to 2098.
    const OWN: &str = "-----BEGIN CERTIFICATE-----
MIIBizCCATGgAwIBAgIUAOlX04kr4xiO3WiCWkhX9CHu/QIwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIxMjQxNTdaGA8yMDk4MDEyODEyNDE1
N1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJz1
JAsDprA5ImsXOoXRzhRwQAY/rZQM46f8gNvBC24ihBNGeR4ysqpLBx4VcFlhJjp6
6fj/fRcStZjnlzRZTLyjaTBnMB0GA1UdDgQWBBRW8qkF9OJ00oeWGBb7z/V3tyLX
uzAfBgNVHSMEGDAWgBRW8qkF9OJ00oeWGBb7z/V3tyLXuzAPBgNVHRMBAf8EBTAD
AQH/MBQGA1UdEQQNMAuCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNIADBFAiBDYKx6
0qP0Z89Kb192nfFejMjVrJpxuRJDFQbyWdJCDQIhAKQcOxU6Qq8B9kyI4ZFGU4jU
SzjKUawLvpITDr6vDCUd
-----END CERTIFICATE-----
";
    /// 2030.
    const THEN_S: u64 = 1_900_000_000;

    fn check(known: &[&str], name: &'static str, now_s: u64, expected: bool) {
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let known: Vec<_> = known.iter().map(|pem| read(pem)).collect();
        let verifier = Verifier::new(known, Arc::new(ring::default_provider()));
        let server = ServerName::try_from(name).expect("a name");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
        let found = verifier.verify_server_cert(&read(OWN), &[], &server, &[], now);
        assert_eq!(found.is_ok(), expected, "{name} {now_s}: {found:?}");
    }

    #[test]
    fn a_known_certificate_holds_for_its_name_and_time() {
        check(&[OWN], "localhost", THEN_S, true);
        check(&[], "localhost", THEN_S, false);
        check(&[OWN], "example.org", THEN_S, false);
        check(&[OWN], "localhost", THEN_S / 2, false);
        check(&[OWN], "localhost", THEN_S * 3, false);
    }

    #[test]
    fn what_has_passed_is_taken_off_a_limit() {
        let check = |limit, passed_s, expected| {
            let start = std::time::Instant::now();
            let now = time::Instant::Exact(start + Duration::from_secs(passed_s));
            let limit = NextTimeout { after: limit, ..NextTimeout::default() };
            assert_eq!(left(limit, time::Instant::Exact(start), now).after, expected, "{limit:?} {passed_s}");
        };
        let seconds = time::Duration::from_secs;
        check(seconds(30), 0, seconds(30));
        check(seconds(30), 20, seconds(10));
        check(seconds(30), 31, seconds(0));
        check(time::Duration::NotHappening, 31, time::Duration::NotHappening);
    }
}
