//! HTTP: opening a stream that cannot hang for ever, and downloading a large file in several goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::progress;

/// How long to wait for a connection, and for the next bytes of a body.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// For name look-up and for connecting, each.
    pub(crate) connect: Duration,
    /// The response's head, and any gap within its body.
    pub(crate) stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(60),
        }
    }
}

/// Fetches files over HTTP(S), through the environment's proxy if it names one.
pub(crate) struct Client {
    agent: Agent,
    stall: Duration,
}

impl Client {
    /// A client with these time limits.
    pub(crate) fn new(patience: Patience) -> Self {
        let agent = Agent::config_builder()
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.stall))
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            stall: patience.stall,
        }
    }

    /// The body of `url`, and its length if the server sends it.
    ///
    /// # Errors
    /// If the server cannot be reached or answers with anything but success. A body that ends early
    /// or stalls is an error of the reader.
    pub(crate) fn open(&self, url: &str) -> Result<(impl Read + Send + use<>, Option<u64>)> {
        let response = self.get(url, 0)?;
        ensure!(
            response.status() == StatusCode::OK,
            "the server answers {}",
            response.status()
        );
        let length = response.body().content_length();
        Ok((
            StallGuard::new(response.into_body().into_reader(), self.stall),
            length,
        ))
    }

    /// Download `url` to `destination`, continuing a `destination.partial` that an interrupted call left.
    ///
    /// # Errors
    /// If the download fails or ends early; the received bytes are kept for the next call.
    pub(crate) fn download(&self, url: &str, destination: &Path) -> Result<()> {
        let partial = partial_path(destination);
        let held = fs::metadata(&partial).map_or(0, |metadata| metadata.len());
        let response = self.get(url, held)?;
        let start = match decide(&response, held)? {
            Answer::Body { start } => start,
            Answer::AlreadyWhole => {
                return fs::rename(&partial, destination)
                    .with_context(|| format!("cannot rename {}", partial.display()));
            }
            Answer::StartOver => {
                fs::remove_file(&partial)
                    .with_context(|| format!("cannot remove {}", partial.display()))?;
                return self.download(url, destination);
            }
        };
        let total = response
            .body()
            .content_length()
            .map(|length| start + length);
        let mut file = open_at(&partial, start)
            .with_context(|| format!("cannot write {}", partial.display()))?;
        let name = destination
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let bar = progress::bytes(&name, total);
        bar.set_position(start);
        let mut body = bar.wrap_read(StallGuard::new(
            response.into_body().into_reader(),
            self.stall,
        ));
        let copied = io::copy(&mut body, &mut file);
        bar.finish_and_clear();
        file.sync_all()
            .with_context(|| format!("cannot write {}", partial.display()))?;
        let arrived = file
            .metadata()
            .with_context(|| format!("cannot read {}", partial.display()))?
            .len();
        copied.with_context(|| {
            format!("interrupted after {arrived} bytes (run again to go on from there)")
        })?;
        if let Some(total) = total {
            ensure!(
                arrived == total,
                "ended after {arrived} of {total} bytes (run again to go on from there)"
            );
        }
        fs::rename(&partial, destination)
            .with_context(|| format!("cannot rename {}", partial.display()))
    }

    fn get(&self, url: &str, start: u64) -> Result<Response<Body>> {
        let mut request = self.agent.get(url);
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        request.call().map_err(|error| anyhow!("{error}"))
    }
}

/// The meaning of the answer to a request for the bytes from `held` on.
enum Answer {
    /// The body holds the bytes from `start` to the end.
    Body { start: u64 },
    /// Nothing was missing.
    AlreadyWhole,
    /// The bytes at hand cannot be a beginning of the file.
    StartOver,
}

fn decide(response: &Response<Body>, held: u64) -> Result<Answer> {
    let content_range = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    match response.status() {
        StatusCode::OK => Ok(Answer::Body { start: 0 }),
        StatusCode::PARTIAL_CONTENT => {
            let start = content_range.and_then(range_start);
            ensure!(
                start == Some(held),
                "asked for the bytes from {held} on, the server sends {content_range:?}"
            );
            Ok(Answer::Body { start: held })
        }
        StatusCode::RANGE_NOT_SATISFIABLE if held > 0 => {
            let total =
                content_range.and_then(|range| range.strip_prefix("bytes */")?.parse::<u64>().ok());
            Ok(if total == Some(held) {
                Answer::AlreadyWhole
            } else {
                Answer::StartOver
            })
        }
        status => bail!("the server answers {status}"),
    }
}

/// The first byte's position in a header like `bytes 100-199/200`.
fn range_start(content_range: &str) -> Option<u64> {
    content_range
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .parse()
        .ok()
}

/// The name of `destination` until it is complete.
pub(crate) fn partial_path(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    destination.with_file_name(name)
}

/// Open a file for writing from `start` on; later content is removed.
fn open_at(path: &Path, start: u64) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    file.set_len(start)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(file)
}

/// A body with an error if nothing arrives for too long. The HTTP library only limits the duration of the whole body, which is
/// unknown here.
struct StallGuard {
    chunks: Receiver<io::Result<Vec<u8>>>,
    stall: Duration,
    chunk: Vec<u8>,
    position: usize,
}

impl StallGuard {
    fn new(mut body: impl Read + Send + 'static, stall: Duration) -> Self {
        let (sender, chunks) = sync_channel(4);
        // The thread ends with the body, or when the guard is dropped and a send fails.
        thread::spawn(move || {
            loop {
                let mut chunk = vec![0; 1 << 16];
                let read = match body.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let last = !matches!(read, Ok(n) if n > 0);
                let sent = sender.send(read.map(|n| {
                    chunk.truncate(n);
                    chunk
                }));
                if last || sent.is_err() {
                    break;
                }
            }
        });
        Self {
            chunks,
            stall,
            chunk: Vec::new(),
            position: 0,
        }
    }
}

impl Read for StallGuard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.chunk.len() {
            self.chunk = match self.chunks.recv_timeout(self.stall) {
                Ok(chunk) => chunk?,
                Err(RecvTimeoutError::Timeout) => {
                    let message = format!("nothing arrived for {} s", self.stall.as_secs_f32());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            self.position = 0;
        }
        let n = buffer.len().min(self.chunk.len() - self.position);
        buffer[..n].copy_from_slice(&self.chunk[self.position..self.position + n]);
        self.position += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::test_server::{Resource, TestServer};

    fn client() -> Client {
        Client::new(Patience {
            connect: Duration::from_secs(2),
            stall: Duration::from_millis(300),
        })
    }

    fn content() -> Vec<u8> {
        (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn a_cut_download_goes_on_from_where_it_stopped() {
        let (server, folder) = (TestServer::start(), tempfile::tempdir().unwrap());
        let (url, path) = (format!("{}f", server.address()), folder.path().join("f"));
        server.put(
            "f",
            Resource {
                content: content(),
                cut_after: Some(300_000),
                ..Resource::default()
            },
        );
        client().download(&url, &path).unwrap_err();
        assert!(!path.exists());
        let held = fs::metadata(partial_path(&path)).unwrap().len();
        assert_eq!(held, 300_000);

        server.put(
            "f",
            Resource {
                content: content(),
                ..Resource::default()
            },
        );
        client().download(&url, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content());
        assert_eq!(server.requests(), ["f", "f from 300000"]);
        assert!(!partial_path(&path).exists());
    }

    #[test]
    fn a_server_without_ranges_makes_it_start_over() {
        let (server, folder) = (TestServer::start(), tempfile::tempdir().unwrap());
        let path = folder.path().join("f");
        fs::write(partial_path(&path), vec![9; 1000]).unwrap();
        server.put(
            "f",
            Resource {
                content: content(),
                ignores_ranges: true,
                ..Resource::default()
            },
        );
        client()
            .download(&format!("{}f", server.address()), &path)
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), content());
    }

    #[test]
    fn a_whole_partial_file_is_taken_and_a_longer_one_dropped() {
        let (server, folder) = (TestServer::start(), tempfile::tempdir().unwrap());
        let (url, path) = (format!("{}f", server.address()), folder.path().join("f"));
        server.put(
            "f",
            Resource {
                content: content(),
                ..Resource::default()
            },
        );
        for held in [content(), [content(), vec![0]].concat()] {
            fs::write(partial_path(&path), held).unwrap();
            client().download(&url, &path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content());
            assert!(!partial_path(&path).exists());
        }
    }

    #[test]
    fn a_body_that_stalls_is_given_up() {
        let server = TestServer::start();
        let pause = Some(Duration::from_secs(20));
        server.put(
            "f",
            Resource {
                content: content(),
                pause,
                ..Resource::default()
            },
        );
        let begun = Instant::now();
        let (mut body, _) = client().open(&format!("{}f", server.address())).unwrap();
        let error = io::copy(&mut body, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn missing_files_and_dead_servers_say_so() {
        let server = TestServer::start();
        let refusal = |url: &str| client().open(url).err().unwrap().to_string();
        assert!(refusal(&format!("{}nothing", server.address())).contains("404"));
        // A port that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        refusal(&format!("http://{address}/f"));
    }

    #[test]
    fn start_of_a_content_range_is_read() {
        assert_eq!(range_start("bytes 100-199/200"), Some(100));
        assert_eq!(range_start("bytes */200"), None);
    }
}
