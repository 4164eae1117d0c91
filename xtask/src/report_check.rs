//! `cargo xtask report-check`: a run's report.html in a real browser.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::workspace::Workspace;

/// The names of the browser, by system.
const BROWSERS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// Widths in pixels and the color schemes as Chromium numbers them.
const WIDTHS: [u32; 2] = [1200, 400];
const SCHEMES: [(&str, u32); 2] = [("dark", 0), ("light", 1)];

/// The height of screenshots. Pages are a few thousand pixels high; the rest is blank.
const HEIGHT: u32 = 9000;

/// Opens a report on a wide and on a narrow screen, light and dark, and leaves screenshots in
/// `target/report-check`.
///
/// # Errors
/// There is no Chromium; the page writes to the console, asks for anything from the network, or does
/// not come out as a picture.
pub(crate) fn check(workspace: &Workspace, run: &Path) -> Result<()> {
    let page = match run.is_dir() {
        true => run.join("report.html"),
        false => run.to_path_buf(),
    };
    let page = fs::canonicalize(&page)
        .with_context(|| format!("{}: `vae eval` writes it", page.display()))?;
    let browser = find_browser()?;
    let folder = workspace.root().join("target/report-check");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for (scheme, number) in SCHEMES {
        for width in WIDTHS {
            let picture = folder.join(format!("{scheme}-{width}.png"));
            open(browser, &page, number, width, &picture)?;
            println!("{}", picture.display());
        }
    }
    Ok(())
}

/// The Chromium on the PATH.
pub(crate) fn find_browser() -> Result<&'static str> {
    let answers = |name: &&&str| {
        let output = Command::new(name).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    };
    BROWSERS
        .iter()
        .find(answers)
        .copied()
        .with_context(|| format!("none of {} is on the PATH", BROWSERS.join(", ")))
}

fn open(browser: &str, page: &Path, scheme: u32, width: u32, picture: &Path) -> Result<()> {
    let temporary = tempfile::tempdir().context("a temporary folder")?;
    let net_log = temporary.path().join("net.json");
    // No window is narrower than 500 pixels, but a frame in one is.
    let frame = temporary.path().join("frame.html");
    let address = format!("file://{}", page.display());
    fs::write(&frame, frame_html(&address, width)).with_context(|| frame.display().to_string())?;
    if picture.exists() {
        fs::remove_file(picture).with_context(|| picture.display().to_string())?;
    }
    let mut command = Command::new(browser);
    command
        .arg("--headless=new")
        // Root, as in containers, has no sandbox; the page is our own.
        .args(["--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .args(["--no-first-run", "--disable-background-networking"])
        .arg("--enable-logging=stderr")
        .arg("--virtual-time-budget=2000")
        .arg(format!("--window-size={},{HEIGHT}", width.max(500)))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!(
            "--user-data-dir={}",
            temporary.path().join("profile").display()
        ))
        .arg(format!("--log-net-log={}", net_log.display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", frame.display()));
    let output = command.output().with_context(|| browser.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{browser}: {}\n{said}",
        output.status
    );
    if let Some(line) = said.lines().find(|line| line.contains(":CONSOLE")) {
        bail!("{}: on the console: {line}", page.display());
    }
    let log = fs::read_to_string(&net_log).with_context(|| net_log.display().to_string())?;
    let log: Value = serde_json::from_str(&log).context("the browser's network log")?;
    let asked = requests_of_the_page(&log);
    ensure!(
        asked.is_empty(),
        "{}: asks the network for {}",
        page.display(),
        asked.join(", ")
    );
    ensure!(
        picture.is_file(),
        "{}: {browser} made no picture of it\n{said}",
        page.display()
    );
    Ok(())
}

/// A page that shows another one at this width.
fn frame_html(address: &str, width: u32) -> String {
    let address = address.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        "<!DOCTYPE html><meta name=\"color-scheme\" content=\"light dark\">\
         <body style=\"margin:0\"><iframe src=\"{address}\" style=\"width:{width}px;height:{HEIGHT}px;\
         border:0;color-scheme:light dark\"></iframe>"
    )
}

/// The network requests of a page, without those of the browser itself.
fn requests_of_the_page(log: &Value) -> Vec<String> {
    let events = log["events"].as_array().map_or(&[][..], Vec::as_slice);
    let requests = events.iter().filter_map(|event| {
        let url = event["params"]["url"].as_str()?;
        // The browser's own requests come from nowhere.
        let is_of_a_page = event["params"]["initiator"].as_str()? != "not an origin";
        let is_remote = ["http:", "https:", "ws:", "wss:", "ftp:"];
        let is_remote = is_remote.iter().any(|scheme| url.starts_with(scheme));
        (is_of_a_page && is_remote).then(|| url.to_owned())
    });
    requests.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_the_pages_where_they_come_from_an_origin() {
        let event = |url: &str, initiator: Option<&str>| match initiator {
            Some(initiator) => json!({ "params": { "url": url, "initiator": initiator } }),
            None => json!({ "params": { "url": url } }),
        };
        let log = json!({ "events": [
            event("https://updates.example/", Some("not an origin")),
            event("https://updates.example/", None),
            event("http://tracker.example/x.png", Some("null")),
            event("file:///tmp/frame.html", Some("null")),
            {},
        ] });
        assert_eq!(requests_of_the_page(&log), ["http://tracker.example/x.png"]);
        assert!(requests_of_the_page(&json!({})).is_empty());
    }
}
