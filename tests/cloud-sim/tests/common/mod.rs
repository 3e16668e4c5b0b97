//! A tiny client for the tests: TLS by OpenSSL, HTTP by hand, tokens by hand. It knows nothing of the simulator's inside.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cloud_sim::{Options, Ready, Sim};
use openssl::{
    hash::MessageDigest,
    pkey::{PKey, Private},
    sign::Signer,
    ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode},
    x509::X509,
};
use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A seeded simulator.
pub(crate) fn sim() -> Sim {
    sim_with(Options::default())
}

/// A seeded simulator that differs from the default as given.
pub(crate) fn sim_with(options: Options) -> Sim {
    Sim::start(Options { seed: Some(1), ..options }).unwrap()
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|err| panic!("{err}: {}", self.text))
    }
}

/// A kept connection to `host:port` that trusts the simulator's CA.
pub(crate) struct Client {
    stream: SslStream<TcpStream>,
    authority: String,
}

impl Client {
    pub(crate) fn connect(ready: &Ready, authority: &str) -> io::Result<Client> {
        Client::connect_as(ready, authority, None)
    }

    /// The same, showing a certificate.
    pub(crate) fn connect_as(ready: &Ready, authority: &str, shown: Option<&Identity>) -> io::Result<Client> {
        // Not SslConnector: it reads the system's CA certificates each time, which takes longer than all the rest.
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.set_ca_file(&ready.ca).unwrap();
        context.set_verify(SslVerifyMode::PEER);
        if let Some(Identity { chain, key }) = shown {
            context.set_certificate(&chain[0]).unwrap();
            context.set_private_key(key).unwrap();
            chain[1..].iter().for_each(|it| context.add_extra_chain_cert(it.clone()).unwrap());
        }
        let (host, port) = authority.rsplit_once(':').unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap()))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut ssl = Ssl::new(&context.build()).unwrap();
        ssl.set_hostname(host).unwrap();
        ssl.param_mut().set_host(host).unwrap();
        let stream = ssl.connect(stream).map_err(|err| io::Error::other(err.to_string()))?;
        Ok(Client { stream, authority: authority.to_owned() })
    }

    /// Wait for an answer no longer than this.
    pub(crate) fn patience(&mut self, time: Duration) {
        self.stream.get_ref().set_read_timeout(Some(time)).unwrap();
    }

    /// One request; `body` null for none.
    pub(crate) fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> io::Result<Answer> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let json = [headers, &[("content-type", "application/json")]].concat();
        self.send_text(method, target, if body.is_empty() { headers } else { &json }, &body)
    }

    /// One request with a body that is not JSON.
    pub(crate) fn send_text(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Answer> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n", self.authority);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        self.read()
    }

    fn read(&mut self) -> io::Result<Answer> {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            self.more(&mut bytes)?;
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
        while bytes.len() < head + 4 + length {
            self.more(&mut bytes)?;
        }
        let text = String::from_utf8_lossy(&bytes[head + 4..]).into_owned();
        Ok(Answer { status, headers, text })
    }

    fn more(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes.extend_from_slice(&piece[..n]);
                Ok(())
            }
        }
    }
}

/// A certificate with its issuers, and its key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<X509>,
    pub(crate) key: PKey<Private>,
}

impl Identity {
    /// From `POST /issue`.
    pub(crate) fn issued(sim: &Sim, order: &Value) -> Identity {
        let (status, issued) = sim.admin("POST", "/issue", order);
        assert_eq!(status, 201, "{issued}");
        let pem = |member: &str| issued[member].as_str().unwrap().as_bytes().to_vec();
        let chain = X509::stack_from_pem(&pem("chain")).unwrap();
        Identity { chain, key: PKey::private_key_from_pem(&pem("private_key")).unwrap() }
    }

    /// Without the issuers.
    pub(crate) fn alone(&self) -> Identity {
        Identity { chain: self.chain[..1].to_vec(), key: self.key.clone() }
    }

    pub(crate) fn pem(&self) -> String {
        String::from_utf8(self.chain[0].to_pem().unwrap()).unwrap()
    }

    pub(crate) fn thumbprint(&self, digest: MessageDigest) -> String {
        self.chain[0].digest(digest).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// One request on a connection of its own.
pub(crate) fn call(
    ready: &Ready,
    authority: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> io::Result<Answer> {
    Client::connect(ready, authority)?.send(method, target, headers, body)
}

/// `sr` as upstream writes it, for what our ids contain.
pub(crate) fn sr(resource: &str) -> String {
    resource.to_lowercase().replace(' ', "%20").replace('=', "%3D")
}

/// A token over `sr` as given.
pub(crate) fn token_over(sr: &str, key: &str, expiry: i64, skn: &str) -> String {
    let key = PKey::hmac(&STANDARD.decode(key).unwrap()).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    let sig = STANDARD.encode(signer.sign_oneshot_to_vec(format!("{sr}\n{expiry}").as_bytes()).unwrap());
    let sig = sig.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("SharedAccessSignature sr={sr}&sig={sig}&se={expiry}{skn}")
}

/// A fresh token.
pub(crate) fn token(resource: &str, key: &str, skn: bool) -> String {
    token_over(&sr(resource), key, now() + 30, if skn { "&skn=registration" } else { "" })
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A device: where it is enrolled and with which key.
pub(crate) struct Device<'a> {
    pub(crate) sim: &'a Sim,
    pub(crate) id: String,
    pub(crate) key: String,
}

impl<'a> Device<'a> {
    /// Enrol it individually, with `extra` members in the enrolment.
    pub(crate) fn enrolled(sim: &'a Sim, id: &str, extra: &Value) -> Device<'a> {
        let mut enrollment = json!({"attestation": {"type": "symmetricKey"}});
        enrollment.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        let (status, stored) = sim.admin("PUT", &format!("/enrollments/{id}"), &enrollment);
        assert_eq!(status, 200, "{stored}");
        let key = stored["attestation"]["symmetricKey"]["primaryKey"].as_str().unwrap().to_owned();
        Device { sim, id: id.to_owned(), key }
    }

    /// Create it at the first hub, without DPS.
    pub(crate) fn manual(sim: &'a Sim, id: &str) -> Device<'a> {
        let (status, device) = sim.admin("PUT", &format!("/devices/0/{id}"), &Value::Null);
        assert_eq!(status, 200, "{device}");
        let key = device["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap().to_owned();
        Device { sim, id: id.to_owned(), key }
    }

    pub(crate) fn dps(&self) -> String {
        self.sim.ready().dps.trim_start_matches("https://").to_owned()
    }

    pub(crate) fn dps_token(&self) -> String {
        token(&format!("{}/registrations/{}", self.sim.ready().scope, self.id), &self.key, true)
    }

    /// Register with this token and body.
    pub(crate) fn register_with(&self, token: &str, body: &Value) -> Answer {
        let target = format!(
            "/{}/registrations/{}/register?api-version=2021-06-01",
            self.sim.ready().scope,
            self.id.replace(' ', "%20")
        );
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("authorization", token)] };
        call(self.sim.ready(), &self.dps(), "PUT", &target, headers, body).unwrap()
    }

    pub(crate) fn poll_with(&self, token: &str, operation: &str) -> Answer {
        let target = format!(
            "/{}/registrations/{}/operations/{operation}?api-version=2021-06-01",
            self.sim.ready().scope,
            self.id
        );
        call(self.sim.ready(), &self.dps(), "GET", &target, &[("authorization", token)], &Value::Null)
            .unwrap()
    }

    /// Register and poll to the end; the last answer.
    pub(crate) fn register(&self) -> Value {
        self.register_payload(&json!({"registrationId": self.id}))
    }

    pub(crate) fn register_payload(&self, body: &Value) -> Value {
        let token = self.dps_token();
        let answer = self.register_with(&token, body);
        assert_eq!(answer.status, 202, "{}", answer.text);
        let operation = answer.json()["operationId"].as_str().unwrap().to_owned();
        for _ in 0..100 {
            let answer = self.poll_with(&token, &operation);
            if answer.status != 202 {
                assert_eq!(answer.status, 200, "{}", answer.text);
                return answer.json();
            }
        }
        panic!("assigning for ever");
    }

    /// A hub request with a fresh device token; `path` follows `/devices/`.
    pub(crate) fn hub(&self, method: &str, path: &str, if_match: Option<&str>, body: &Value) -> Answer {
        let hub = &self.sim.ready().hubs[0];
        let token = token(&format!("{hub}/devices/{}", self.id), &self.key, false);
        self.hub_with(&token, method, path, if_match, body)
    }

    pub(crate) fn hub_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        if_match: Option<&str>,
        body: &Value,
    ) -> Answer {
        let target = format!("/devices/{path}?api-version=2017-11-08-preview");
        let mut headers = vec![("authorization", token)];
        headers.extend(if_match.map(|tag| ("if-match", tag)));
        call(self.sim.ready(), &self.sim.ready().hubs[0], method, &target, &headers, body).unwrap()
    }

    /// Create a module; its JSON.
    pub(crate) fn create_module(&self, module: &str) -> Value {
        let path = format!("{}/modules/{module}", self.id);
        let answer = self.hub("PUT", &path, None, &json!({"moduleId": module, "deviceId": self.id}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }
}

/// The latest entry of the log.
pub(crate) fn last_entry(sim: &Sim) -> Value {
    let (_, log) = sim.admin("GET", "/log", &Value::Null);
    log["entries"].as_array().unwrap().last().unwrap().clone()
}
