//! Results on stdout and messages on stderr. Neither ends the program where nobody reads them, and a name
//! with control characters in it cannot forge lines or move the terminal's cursor.

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;
use vae_data::one_line;

/// Why stdout took no more.
static STDOUT_FAILED: OnceLock<io::Error> = OnceLock::new();

/// A line of results, as `println!` writes one. That stdout was not writable is told at the end
/// ([`stdout_error`]).
macro_rules! out {
    () => {
        $crate::output::print(format_args!("\n"))
    };
    ($($message:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($message)*)))
    };
}
pub(crate) use out;

/// A line of messages, as `eprintln!` writes one, with control characters escaped. Where stderr takes
/// nothing the program goes on.
macro_rules! say {
    ($($message:tt)*) => {
        $crate::output::say_line(&format!($($message)*))
    };
}
pub(crate) use say;

/// What [`out!`] does, without the end of the line.
pub(crate) fn print(text: fmt::Arguments) {
    if STDOUT_FAILED.get().is_some() {
        return;
    }
    if let Err(error) = io::stdout().lock().write_fmt(text) {
        let _ = STDOUT_FAILED.set(error); // The first one is the cause.
    }
}

/// A line with the name of a file. As `ls` does: escaped for people, as it is for programs.
pub(crate) fn print_path(path: &Path) {
    match io::stdout().is_terminal() {
        true => out!("{}", one_line(&path.to_string_lossy())),
        false => out!("{}", path.display()),
    }
}

/// Flushes stdout, and gives the error that kept results from it. That its reader went away, as `head`
/// does, is none.
pub(crate) fn stdout_error() -> Option<io::Error> {
    let flushed = io::stdout().flush();
    let failed = STDOUT_FAILED.get().map(|error| (error.kind(), error));
    let error = match (failed, flushed) {
        // io::Error cannot be cloned.
        (Some((kind, error)), _) => match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::from(kind),
        },
        (None, Err(error)) => error,
        (None, Ok(())) => return None,
    };
    (error.kind() != ErrorKind::BrokenPipe).then_some(error)
}

/// What [`say!`] does.
pub(crate) fn say_line(message: &str) {
    let line = one_line(message) + "\n";
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The form of warnings: the level and the message, in one line.
pub(crate) struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = *event.metadata().level();
        let color = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG | Level::TRACE => 34,
        };
        match writer.has_ansi_escapes() {
            true => write!(writer, "\x1b[{color}m{level:>5}\x1b[0m")?,
            false => write!(writer, "{level:>5}")?,
        }
        writeln!(writer, " {}", one_line(&message.0))
    }
}

/// The text of an event, then its other fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
