//! `vae explore`: what its server answers, and to whom.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::common::Workplace;

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
    token: String,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Width and height of a PNG.
    fn size(&self) -> (u32, u32) {
        assert_eq!(self.status, 200, "{}", self.text());
        let picture = image::load_from_memory(&self.body).expect("a picture");
        (picture.width(), picture.height())
    }
}

impl Server {
    fn start(workplace: &Workplace, runs: &[&str]) -> Self {
        let args = [&["explore", "--no-open", "--limit", "12"], runs].concat();
        let mut command = workplace.command(&args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a server");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let link = line.trim().strip_prefix("http://").expect("an address");
        let (address, token) = link.split_once("/?token=").expect("a token");
        Self {
            child,
            address: address.to_owned(),
            token: token.to_owned(),
        }
    }

    /// A request with these headers; its body is sent if there is one.
    fn request(&self, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.unwrap_or_default();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes()).expect("sent");
        stream.write_all(body).expect("sent");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status");
        Answer {
            status,
            head: head.to_ascii_lowercase(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    fn ask(&self, path: &str, body: Option<&[u8]>) -> Answer {
        self.request(path, &[("X-Token", &self.token)], body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_gets_what_it_asks_for_and_nobody_else_does() {
    let workplace = Workplace::new();
    workplace.train(
        &[
            "--limit",
            "40",
            "--epochs",
            "1",
            "--set",
            "model.latent_dims=4",
        ],
        "runs/a",
    );
    let server = Server::start(&workplace, &["runs/a"]);

    // Without the token, under another name, from another site.
    assert_eq!(server.request("/", &[], None).status, 403);
    assert_eq!(server.request("/api/runs", &[], None).status, 403);
    let token = ("X-Token", server.token.as_str());
    let foreign = [token, ("Host", "evil.example")];
    assert_eq!(server.request("/api/runs", &foreign, None).status, 403);
    let foreign = [token, ("Origin", "http://evil.example")];
    assert_eq!(server.request("/api/runs", &foreign, None).status, 403);

    let page = server.request(&format!("/?token={}", server.token), &[], None);
    assert_eq!(page.status, 200);
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'"),
        "{}",
        page.head
    );
    let nonce = page
        .head
        .split("script-src 'nonce-")
        .nth(1)
        .expect("a number");
    let nonce = nonce.split('\'').next().expect("a number");
    assert!(page.text().contains(&format!("<script nonce=\"{nonce}\">")));
    let again = server.request(&format!("/?token={}", server.token), &[], None);
    assert!(
        !again.head.contains(nonce),
        "each page has a number of its own"
    );

    let runs = server.ask("/api/runs", None).json();
    assert_eq!(runs[0]["name"], "a");
    let model = server.ask("/api/model?run=0", None).json();
    assert_eq!((&model["latents"], &model["items"]), (&4.into(), &8.into()));
    assert_eq!(
        model["components"]["directions"].as_array().map(Vec::len),
        Some(4)
    );
    let latents = server.ask("/api/latents?run=0", None);
    assert_eq!(latents.body.len(), 8 * 4 * 4);

    let item = server.ask("/api/item?run=0&i=3", None);
    let decoded = server.ask("/api/decode?run=0", Some(&latents.body[16..32]));
    assert_eq!(item.size(), decoded.size());
    let other = server.ask("/api/decode?run=0", Some(&[0; 16]));
    assert_ne!(other.body, decoded.body, "other latents, another picture");
    assert_eq!(server.ask("/api/item?run=0&i=8", None).status, 422);
    assert_eq!(server.ask("/api/decode?run=0", Some(&[0; 12])).status, 422);
    assert_eq!(
        server
            .ask("/api/decode?run=0", Some(&f32::NAN.to_le_bytes().repeat(4)))
            .status,
        422
    );
    assert_eq!(server.ask("/api/model?run=1", None).status, 404);

    // An item as a file is where the item is.
    let encoded = server.ask("/api/encode?run=0", Some(&item.body)).json();
    let wanted = latents.body[48..64]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let found = encoded["latents"]
        .as_array()
        .expect("latents")
        .iter()
        .map(|z| z.as_f64().expect("a number"));
    assert!(
        wanted.zip(found).all(|(a, b)| (a - b).abs() < 1e-4),
        "{encoded}"
    );
    assert_eq!(encoded["neighbors"][0], 3);
    assert_eq!(
        server.ask("/api/prepare?run=0", Some(&item.body)).size(),
        item.size()
    );
    let said = server.ask("/api/encode?run=0", Some(b"no image"));
    assert_eq!(said.status, 422);
    assert!(said.text().contains("cannot be used"), "{}", said.text());

    let live = server.ask("/api/live?run=0", None).json();
    assert_eq!(live["overview"]["state"], "finished");
    let name = live["pictures"][0].as_str().expect("a picture");
    let picture = server.ask(&format!("/api/picture?run=0&name={name}"), None);
    assert!(picture.size().0 > 0);
    for outside in ["../config.toml", "..%2Fconfig.toml", "/etc/passwd"] {
        let answer = server.ask(&format!("/api/picture?run=0&name={outside}"), None);
        assert_eq!(answer.status, 422, "{outside}");
    }
}

#[test]
fn a_run_that_is_none_is_an_error_before_there_is_a_page() {
    let workplace = Workplace::new();
    let said = workplace.error(&["explore", "nowhere", "--no-open"], 1);
    assert!(said.contains("nowhere"), "{said}");
}
