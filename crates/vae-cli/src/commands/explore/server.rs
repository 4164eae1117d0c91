//! The server: one page and what it asks for, for those who know the address with its token.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use vae_run::{Overview, Record, RunDir};

use super::model::{Model, Opened, Refusal};
use crate::output::whole;

/// The page, whole: it asks no other host for anything.
const PAGE: &str = include_str!("page.html");

/// Bytes of the largest request: an image file.
const LARGEST_REQUEST: usize = 64 << 20;

/// Requests that are answered at the same time; more are refused.
const MOST_AT_A_TIME: usize = 64;

/// Bytes of the largest picture of a run that is sent.
const LARGEST_PICTURE: u64 = 64 << 20;

/// The runs, and who may ask for them.
pub(super) struct App {
    models: Vec<Model>,
    token: String,
    /// Names of this server, as browsers send them in `Host`.
    hosts: Vec<String>,
    places: Semaphore,
}

impl App {
    /// For a server at this address.
    pub(super) fn new(models: Vec<Model>, address: SocketAddr) -> Result<Self> {
        let token = unguessable()?;
        let mut hosts = vec![address.to_string()];
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            let names = ["127.0.0.1", "localhost", "[::1]"];
            hosts.extend(names.map(|name| format!("{name}:{}", address.port())));
        }
        Ok(Self {
            models,
            token,
            hosts,
            places: Semaphore::new(MOST_AT_A_TIME),
        })
    }

    /// The address of the page, with the token.
    pub(super) fn link(&self, address: SocketAddr) -> String {
        let address = match address.ip().is_unspecified() {
            true => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), address.port()),
            false => address,
        };
        format!("http://{address}/?token={}", self.token)
    }

    /// Why a request is refused, if it is.
    fn refusal(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Option<(StatusCode, &'static str)> {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let is_ours = |host: &str| {
            // A server at all addresses is reached by any of them; the token is what protects it.
            let is_open = self
                .hosts
                .iter()
                .any(|known| known.starts_with("0.0.0.0:") || known.starts_with("[::]:"));
            is_open || self.hosts.iter().any(|known| known == host)
        };
        // A page of another site may make a browser ask, under that site's name for this address (DNS rebinding) or from
        // that site (cross-site requests).
        if !text(header::HOST).is_some_and(is_ours) {
            return Some((StatusCode::FORBIDDEN, "this is not a name of this server"));
        }
        let origin = text(header::ORIGIN).map(|origin| origin.strip_prefix("http://"));
        if origin.is_some_and(|host| !host.is_some_and(is_ours)) {
            return Some((StatusCode::FORBIDDEN, "another site asks"));
        }
        let given = text(header::HeaderName::from_static("x-token")).or_else(|| {
            let pairs = query.unwrap_or_default().split('&');
            pairs.filter_map(|pair| pair.strip_prefix("token=")).next()
        });
        match given {
            Some(given) if is_same(given, &self.token) => None,
            _ => Some((
                StatusCode::FORBIDDEN,
                "the address with its token is in the terminal where `vae explore` runs",
            )),
        }
    }

    fn model(&self, asked: &Asked) -> Result<&Model, Failure> {
        let model = self.models.get(asked.run.unwrap_or(0));
        model.ok_or_else(|| Failure(StatusCode::NOT_FOUND, "there is no such run".to_owned()))
    }
}

/// 128 random bits of the system, in hexadecimal digits.
fn unguessable() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the system has no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn is_same(a: &str, b: &str) -> bool {
    let differences = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && differences == 0
}

/// Serves until `stopped` is done.
pub(super) async fn serve(
    app: App,
    listener: tokio::net::TcpListener,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let app = Arc::new(app);
    let router = Router::new()
        .route("/", get(page))
        .route("/api/runs", get(runs))
        .route("/api/model", get(model))
        .route("/api/latents", get(latents))
        .route("/api/item", get(item))
        .route("/api/decode", post(decode))
        .route("/api/encode", post(encode))
        .route("/api/prepare", post(prepare))
        .route("/api/live", get(live))
        .route("/api/picture", get(picture))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(app);
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped)
        .await
        .context("the server")
}

/// Refuses who does not know the token, and more requests than can be answered; tells browsers to trust nothing else.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let query = request.uri().query();
    let refusal = app.refusal(request.headers(), query);
    let mut response = match refusal {
        Some((status, why)) => (status, format!("{why}\n")).into_response(),
        None => match app.places.try_acquire() {
            Ok(_place) => next.run(request).await,
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "too many requests\n").into_response(),
        },
    };
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a request may name.
#[derive(Deserialize)]
struct Asked {
    run: Option<usize>,
    i: Option<usize>,
    condition: Option<String>,
    name: Option<String>,
}

/// A request without an answer.
struct Failure(StatusCode, String);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy => Self(
                StatusCode::SERVICE_UNAVAILABLE,
                "the model is busy".to_owned(),
            ),
            Refusal::Failed(problem) => Self(StatusCode::UNPROCESSABLE_ENTITY, problem),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = axum::Json(json!({ "error": self.1 }));
        (self.0, body).into_response()
    }
}

type Answer = Result<Response, Failure>;

fn as_json(value: Value) -> Response {
    axum::Json(value).into_response()
}

fn as_png(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "image/png")], bytes).into_response()
}

/// The page. Scripts and styles are those with the number that this answer alone has.
async fn page(State(app): State<Arc<App>>) -> Answer {
    let nonce =
        unguessable().map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, whole(&error)))?;
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = PAGE
        .replace("{nonce}", &nonce)
        .replace("{token}", &app.token);
    let content = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    Ok((content, html).into_response())
}

async fn runs(State(app): State<Arc<App>>) -> Answer {
    let names = app.models.iter().map(|model| {
        let path = model.path.to_string_lossy().into_owned();
        let name = model.path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "name": name, "path": path })
    });
    Ok(as_json(json!(names.collect::<Vec<_>>())))
}

async fn model(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Answer {
    Ok(as_json(app.model(&asked)?.ask(Opened::description).await?))
}

async fn latents(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Answer {
    let bytes = app.model(&asked)?.ask(Opened::latents).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

async fn item(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Answer {
    let i = asked.i.unwrap_or(0);
    let model = app.model(&asked)?;
    Ok(as_png(model.ask(move |opened| opened.item(i)).await?))
}

async fn decode(State(app): State<Arc<App>>, Query(asked): Query<Asked>, body: Bytes) -> Answer {
    let model = app.model(&asked)?;
    let condition = asked.condition;
    let decoded = model.ask(move |opened| opened.decode(&body, condition.as_deref()));
    Ok(as_png(decoded.await?))
}

async fn encode(State(app): State<Arc<App>>, Query(asked): Query<Asked>, body: Bytes) -> Answer {
    let model = app.model(&asked)?;
    Ok(as_json(
        model.ask(move |opened| opened.encode(&body)).await?,
    ))
}

async fn prepare(State(app): State<Arc<App>>, Query(asked): Query<Asked>, body: Bytes) -> Answer {
    let model = app.model(&asked)?;
    Ok(as_png(
        model.ask(move |opened| opened.prepare(&body)).await?,
    ))
}

/// The state of a run: how far it is, its curves, its newest pictures.
async fn live(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Answer {
    let path = app.model(&asked)?.path.clone();
    Ok(as_json(of_files(move || state(&path)).await?))
}

async fn picture(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Answer {
    let path = app.model(&asked)?.path.clone();
    let name = asked.name.unwrap_or_default();
    let read = of_files(move || {
        let run_dir = RunDir::open(&path)?;
        // Only what is listed is read, so that no name leads out of the folder.
        let is_listed = pictures(&run_dir)?.contains(&name);
        anyhow::ensure!(is_listed, "the run has no picture of this name");
        let file = run_dir.pictures().join(&name);
        vae_base::read_small(&file, LARGEST_PICTURE).with_context(|| file.display().to_string())
    });
    Ok(as_png(read.await?))
}

/// Reads files, on a thread that may wait for the disk.
async fn of_files<T: Send + 'static>(
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let failure = |problem| Failure(StatusCode::UNPROCESSABLE_ENTITY, problem);
    let result = tokio::task::spawn_blocking(read).await;
    let result = result.map_err(|error| failure(error.to_string()))?;
    result.map_err(|error| failure(whole(&error)))
}

fn state(path: &Path) -> Result<Value> {
    const MOST_PICTURES: usize = 6;
    let run_dir = RunDir::open(path)?;
    let overview = Overview::read(&run_dir)?;
    let records = run_dir.records()?;
    let steps = run_dir.step_records()?;
    // Of the first epoch in progress nobody knows yet how long it is.
    let whole = records.iter().find(|record| record.epoch > 0);
    let per_epoch = whole.map(|record| record.step as f64 / record.epoch as f64);
    let shown_steps = steps.iter().filter(|_| per_epoch.is_some());
    let curve = |record: &Record| {
        let means = &record.means;
        let epoch = match (record.split.as_str(), per_epoch) {
            (Record::STEPS, Some(n)) => record.step as f64 / n,
            _ => record.epoch as f64,
        };
        json!({
            "epoch": epoch,
            "split": record.split,
            "loss": means.loss,
            "elbo": means.elbo,
            "reconstruction": means.reconstruction,
            "kl": means.kl,
            "named": record.named,
        })
    };
    // Named after their epoch: `epoch-0002-samples.png`.
    let all = pictures(&run_dir)?;
    let epoch = |name: &str| name.split('-').nth(1).map(str::to_owned);
    let last = all.last().and_then(|name| epoch(name));
    let newest = all.iter().filter(|name| epoch(name) == last);
    let newest: Vec<&String> = newest.take(MOST_PICTURES).collect();
    let incidents = run_dir.summary()?.map(|summary| summary.incidents);
    Ok(json!({
        "overview": overview,
        "records": records.iter().chain(shown_steps).map(curve).collect::<Vec<_>>(),
        "pictures": newest,
        "incidents": incidents.unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}

/// The names of a run's pictures, the oldest first.
fn pictures(run_dir: &RunDir) -> Result<Vec<String>> {
    let folder = run_dir.pictures();
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".png")).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(host: &str, origin: Option<&str>, token: Option<&str>) -> Option<StatusCode> {
        let address = SocketAddr::from(([127, 0, 0, 1], 8000));
        let mut app = App::new(Vec::new(), address).expect("an app");
        app.token = "secret".to_owned();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).expect("a host"));
        if let Some(origin) = origin {
            headers.insert(
                header::ORIGIN,
                HeaderValue::from_str(origin).expect("an origin"),
            );
        }
        let query = token.map(|token| format!("run=0&token={token}"));
        app.refusal(&headers, query.as_deref())
            .map(|(status, _)| status)
    }

    #[test]
    fn only_this_servers_page_with_the_token_is_answered() {
        let forbidden = Some(StatusCode::FORBIDDEN);
        let (here, token) = ("127.0.0.1:8000", Some("secret"));
        assert_eq!(refusal(here, None, token), None);
        assert_eq!(
            refusal("localhost:8000", Some("http://localhost:8000"), token),
            None
        );
        assert_eq!(refusal(here, None, None), forbidden);
        assert_eq!(refusal(here, None, Some("secre")), forbidden);
        assert_eq!(refusal(here, None, Some("secretly")), forbidden);
        assert_eq!(refusal("evil.example:8000", None, token), forbidden);
        assert_eq!(refusal("127.0.0.1:8001", None, token), forbidden);
        assert_eq!(refusal(here, Some("http://evil.example"), token), forbidden);
        assert_eq!(refusal(here, Some("null"), token), forbidden);
    }
}
