//! A web server of a few lines for the tests: files, byte ranges, cut bodies.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The content at a path.
#[derive(Clone, Default)]
pub(crate) struct Resource {
    /// The whole content.
    pub(crate) content: Vec<u8>,
    /// Send only that many bytes of the body, then close.
    pub(crate) cut_after: Option<usize>,
    /// Send the first bytes, then nothing for that long.
    pub(crate) pause: Option<Duration>,
    /// Answer every request with the whole content.
    pub(crate) ignores_ranges: bool,
}

/// A server on a free port of this machine, for as long as the test process lives.
pub(crate) struct TestServer {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    resources: Arc<Mutex<HashMap<String, Resource>>>,
}

impl TestServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let server = Self {
            address,
            requests: Arc::default(),
            resources: Arc::default(),
        };
        let (requests, resources) = (server.requests.clone(), server.resources.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (requests, resources) = (requests.clone(), resources.clone());
                thread::spawn(move || answer(stream, &requests, &resources));
            }
        });
        server
    }

    /// The server's root, with the final slash.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn put(&self, path: &str, resource: Resource) {
        self.resources
            .lock()
            .unwrap()
            .insert(path.to_owned(), resource);
    }

    /// Requests so far, as `path` or `path from BYTE`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    requests: &Mutex<Vec<String>>,
    resources: &Mutex<HashMap<String, Resource>>,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(path) = lines
        .next()
        .and_then(|line| Some(line.split(' ').nth(1)?.trim_start_matches('/').to_owned()))
    else {
        return;
    };
    let mut from = None;
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        }
    }
    requests
        .lock()
        .unwrap()
        .push(from.map_or_else(|| path.clone(), |from| format!("{path} from {from}")));
    let resource = resources.lock().unwrap().get(&path).cloned();
    let Some(resource) = resource else {
        let _ = stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let total = resource.content.len();
    let from = from.filter(|_| !resource.ignores_ranges);
    let status = match from {
        Some(from) if from >= total => {
            format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{total}")
        }
        Some(from) => format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}",
            total - 1
        ),
        None => "200 OK".to_owned(),
    };
    let body = &resource.content[from.unwrap_or(0).min(total)..];
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let sent = &body[..resource.cut_after.unwrap_or(body.len()).min(body.len())];
    let _ = stream.write_all(head.as_bytes());
    if let Some(pause) = resource.pause {
        let _ = stream.write_all(&sent[..sent.len() / 2]);
        thread::sleep(pause);
        return;
    }
    let _ = stream.write_all(sent);
}
