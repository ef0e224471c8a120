//! An HTTP/1.x client over plain sockets that hides nothing: bytes out, status, header and body in.

use serde_json::Value;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than anything the product may take; a wait past it is a failure of its own.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One answer, complete.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The statuses of the 1xx answers that came before.
    pub(crate) interim: Vec<u16>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).first().copied()
    }

    pub(crate) fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Checks the shape that every refusal has, and this one's status, code and `sent`; hands back its JSON.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str, sent: &str) -> Value {
        let text = self.text();
        assert_eq!(self.status, status, "wanted {code}: {text}");
        let content_type = self.header("content-type").unwrap_or_default();
        assert!(
            content_type.starts_with("application/problem+json"),
            "{content_type}: {text}"
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{text}");
        assert_eq!(problem["sent"], sent, "{text}");
        assert_eq!(problem["status"], status, "{text}");
        for member in ["type", "title", "detail"] {
            assert!(
                problem[member].as_str().is_some_and(|it| !it.is_empty()),
                "{member} is missing: {text}"
            );
        }
        let request_id = problem["request_id"].as_str().unwrap_or_default();
        assert!(!request_id.is_empty(), "no request_id: {text}");
        assert_eq!(self.header("x-request-id"), Some(request_id), "{text}");
        problem
    }
}

/// One connection.
pub(crate) struct Connection {
    stream: BufReader<Box<dyn Stream>>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address)?)
    }

    /// From this address of the machine's own.
    pub(crate) fn open_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<Self> {
        Self::over(connect_from(source, address)?)
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(Box::new(stream)),
        })
    }

    pub(crate) fn open_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(Box::new(stream)),
        })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes.as_ref())?;
        stream.flush()
    }

    /// The next answer; 1xx answers are noted and passed over.
    pub(crate) fn receive(&mut self) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let (status, headers) = read_head(&mut self.stream)?;
            if (100..200).contains(&status) {
                interim.push(status);
                continue;
            }
            let body = match status {
                204 | 304 => Vec::new(),
                _ => read_body(&mut self.stream, &headers)?,
            };
            return Ok(Response {
                status,
                headers,
                body,
                interim,
            });
        }
    }

    /// The next status line alone, a 1xx one too.
    pub(crate) fn receive_status(&mut self) -> io::Result<u16> {
        Ok(read_head(&mut self.stream)?.0)
    }

    /// The answer to a HEAD, which has no body whatever it says.
    pub(crate) fn receive_head(&mut self) -> io::Result<(u16, Fields)> {
        read_head(&mut self.stream)
    }

    pub(crate) fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<Response> {
        self.send(bytes)?;
        self.receive()
    }

    /// Whether the other side has ended the connection, waiting for it.
    pub(crate) fn is_ended(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// A connection from this address of the machine's own, which the standard library cannot choose.
pub(crate) fn connect_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        socket.connect(address).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn read_line(stream: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection ended",
        ));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Header fields as (name, value), in their order.
pub(crate) type Fields = Vec<(String, String)>;

/// The fields up to the empty line.
pub(crate) fn read_fields(stream: &mut impl io::BufRead) -> io::Result<Fields> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| broken("a field without a colon"))?;
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

pub(crate) fn read_first_line(stream: &mut impl io::BufRead) -> io::Result<String> {
    read_line(stream)
}

fn read_head(stream: &mut impl io::BufRead) -> io::Result<(u16, Fields)> {
    let line = read_line(stream)?;
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| broken(&format!("no status line: {line:?}")))?;
    Ok((status, read_fields(stream)?))
}

/// The body as its framing says; without framing, up to the end of the connection.
fn read_body(stream: &mut impl io::BufRead, headers: &Fields) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match framing(headers)? {
        Framing::Length(length) => {
            body.resize(length, 0);
            stream.read_exact(&mut body)?;
        }
        Framing::Chunked => read_chunks(stream, &mut body)?,
        Framing::None => {
            stream.read_to_end(&mut body)?;
        }
    }
    Ok(body)
}

pub(crate) enum Framing {
    Length(usize),
    Chunked,
    None,
}

pub(crate) fn framing(headers: &Fields) -> io::Result<Framing> {
    let find = |name: &str| {
        headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
    };
    if let Some((_, value)) = find("transfer-encoding")
        && value.eq_ignore_ascii_case("chunked")
    {
        return Ok(Framing::Chunked);
    }
    match find("content-length") {
        Some((_, value)) => value
            .parse()
            .map(Framing::Length)
            .map_err(|_| broken("a content-length that is no number")),
        None => Ok(Framing::None),
    }
}

pub(crate) fn read_chunks(stream: &mut impl io::BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line = read_line(stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| broken("no chunk size"))?;
        if size == 0 {
            read_fields(stream)?;
            return Ok(());
        }
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        read_line(stream)?;
    }
}

/// A POST with this body and these further header lines, each without its line end.
pub(crate) fn post_bytes(path: &str, further: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n",
        body.len()
    );
    for line in further {
        bytes.push_str(line);
        bytes.push_str("\r\n");
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One POST of JSON on a connection of its own.
pub(crate) fn post(address: SocketAddr, path: &str, body: impl AsRef<[u8]>) -> Response {
    post_with(address, path, &["Content-Type: application/json"], body)
}

pub(crate) fn post_with(
    address: SocketAddr,
    path: &str,
    further: &[&str],
    body: impl AsRef<[u8]>,
) -> Response {
    let mut connection = Connection::open(address).unwrap();
    connection
        .exchange(post_bytes(path, further, body))
        .unwrap_or_else(|error| panic!("POST {path}: {error}"))
}

/// One GET on a connection of its own.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> io::Result<Response> {
    Connection::open(address)?.exchange(format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ))
}
