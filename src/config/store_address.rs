//! The setting `inbox.store`. Problems are reported without quoting the value, which may hold a password.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

const EXPECTED: &str = "expected \"sqlite:PATH\" or \"postgres://user@host/db\"";
const EXPECTED_URL: &str = "expected \"postgres://user@host/db\", with %XX for special characters and libpq's names \
                            for options";

/// The store of orders and events.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreAddress {
    /// One file, for one sidecar; relative to the settings file where it is relative.
    Sqlite(PathBuf),
    /// A database, for any number of them.
    Postgres(Box<PostgresAddress>),
}

/// The way to a database. It is displayed without its password.
#[derive(Debug, Clone, PartialEq)]
pub struct PostgresAddress {
    /// Hosts, user, password, database and options.
    pub config: tokio_postgres::Config,
    /// The encryption of the connection.
    pub encryption: Encryption,
    /// The file that `PGPASSFILE` names, where the password came from it.
    pub passfile: Option<PathBuf>,
}

/// The encryption of a connection; the server's certificate is always verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// None: the connection stays on this machine, or `sslmode=disable` was written out.
    Off,
    /// TLS, by the system's roots and those of `sslrootcert`.
    Verified {
        /// A PEM file.
        roots: Option<PathBuf>,
    },
}

impl StoreAddress {
    /// Parses a setting; `env` gives a password that the URL does not have.
    pub(super) fn parse(
        folder: &Path,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let postgres = PostgresAddress::parse(folder, text, env)?;
            return Ok(Self::Postgres(Box::new(postgres)));
        }
        match text.strip_prefix("sqlite:") {
            Some(":memory:") => {
                Err("expected a file, since events must outlive the process".into())
            }
            Some(path) if !path.is_empty() && !path.contains('\0') => {
                Ok(Self::Sqlite(folder.join(path)))
            }
            _ => Err(EXPECTED.into()),
        }
    }

    /// Returns true where a setting holds a password.
    pub(super) fn names_password(folder: &Path, text: &str) -> bool {
        let parsed = Self::parse(folder, text, &|_| None);
        matches!(parsed, Ok(Self::Postgres(at)) if at.config.get_password().is_some())
    }

    /// Returns a warning about an allowed but questionable setting.
    pub(super) fn warning(&self) -> Option<&'static str> {
        match self {
            Self::Postgres(at) if at.encryption == Encryption::Off && !at.is_local() => Some(
                "sslmode=disable, so anyone on the way can read and change what is kept of payments",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(postgres) => postgres.fmt(f),
        }
    }
}

impl PostgresAddress {
    fn parse(
        folder: &Path,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        // A second `@` would belong to the password for some readers, and to the host for others.
        if base.matches('@').count() > 1 {
            return Err(EXPECTED_URL.into());
        }
        let (mut sslmode, mut roots, mut others) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let value = |value: &str| {
                let plain = percent_encoding::percent_decode_str(value).decode_utf8();
                plain.map_err(|_| EXPECTED_URL).map(String::from)
            };
            match pair.split_once('=') {
                Some(("sslmode", mode)) => sslmode = Some(Mode::parse(mode)?),
                Some(("sslrootcert", path)) => roots = Some(folder.join(value(path)?)),
                _ => others.push(pair),
            }
        }
        let url = format!("{base}?{}", others.join("&"));
        let mut config: tokio_postgres::Config = url.parse().map_err(|_| EXPECTED_URL)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("expected a host in the url of postgres".into());
        }
        if config.get_dbname().is_none() || config.get_user().is_none() {
            return Err("expected a user and a database in the url of postgres".into());
        }
        let mut passfile = None;
        if config.get_password().is_none()
            && let Some((password, file)) = password(&config, env)?
        {
            config.password(password);
            passfile = file;
        }
        // Of several hosts the primary is meant: a standby rejects every write.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let mut postgres = Self {
            config,
            encryption: Encryption::Off,
            passfile,
        };
        let may_be_plain = match sslmode {
            Some(Mode::Disable) => true,
            Some(Mode::Require) => false,
            // libpq's `prefer` falls back to plain text, which anyone on the way can bring about.
            Some(Mode::Prefer) | None => postgres.is_local(),
        };
        if !may_be_plain {
            postgres.encryption = Encryption::Verified { roots };
        }
        postgres.config.ssl_mode(if may_be_plain {
            SslMode::Disable
        } else {
            SslMode::Require
        });
        Ok(postgres)
    }

    /// Reads the password again, where it came from a file that can be read.
    pub fn current_password(&self) -> Option<String> {
        let path = self.passfile.as_ref()?;
        password_in(path, &self.config).ok().flatten()
    }

    /// Returns true where every host is on this machine.
    fn is_local(&self) -> bool {
        let hosts = self.config.get_hosts().iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost"
                    || name
                        .parse()
                        .is_ok_and(|address: IpAddr| address.is_loopback())
            }
        });
        hosts && self.config.get_hostaddrs().iter().all(IpAddr::is_loopback)
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.config.get_user().unwrap_or_default();
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let addresses = self.config.get_hostaddrs().iter().map(ToString::to_string);
        let mut ports = self.config.get_ports().iter();
        let mut last = None;
        let places = hosts.chain(addresses).map(|host| {
            last = ports.next().or(last);
            last.map_or(host.clone(), |port| format!("{host}:{port}"))
        });
        let places: Vec<_> = places.collect();
        let database = self.config.get_dbname().unwrap_or_default();
        write!(f, "postgres://{user}@{}/{database}", places.join(","))
    }
}

/// Finds the password where libpq looks for it: `PGPASSWORD`, then the file that `PGPASSFILE` names, which is returned too.
fn password(
    config: &tokio_postgres::Config,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(String, Option<PathBuf>)>, String> {
    let given = |name| env(name).filter(|value| !value.is_empty());
    if let Some(password) = given("PGPASSWORD") {
        return Ok(Some((password, None)));
    }
    let Some(path) = given("PGPASSFILE") else {
        return Ok(None);
    };
    let found = password_in(Path::new(&path), config)
        .map_err(|error| format!("expected PGPASSFILE to name a readable file, {path}: {error}"))?;
    Ok(found.map(|password| (password, Some(path.into()))))
}

/// Finds the password of this database in a file.
fn password_in(path: &Path, config: &tokio_postgres::Config) -> std::io::Result<Option<String>> {
    let file = std::fs::read_to_string(path)?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(_)) => "localhost".to_owned(),
        None => String::new(),
    };
    let port = config.get_ports().first().unwrap_or(&5432).to_string();
    let database = config.get_dbname().unwrap_or_default();
    let wanted = [
        &host,
        &port,
        database,
        config.get_user().unwrap_or_default(),
    ];
    let found = file.lines().find_map(|line| {
        let (fields, password) = fields(line)?;
        let fits = |(field, wanted): (&String, &str)| field == "*" || field == wanted;
        fields.iter().zip(wanted).all(fits).then_some(password)
    });
    Ok(found)
}

/// Parses a line `host:port:database:user:password`, with `\` before literal separators.
fn fields(line: &str) -> Option<([String; 4], String)> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut()?.extend(characters.next()),
            c => fields.last_mut()?.push(c),
        }
    }
    let password = fields.pop()?;
    Some((fields.try_into().ok()?, password))
}

/// Interprets libpq's `sslmode`. The certificate is verified even where libpq would not.
#[derive(Clone, Copy)]
enum Mode {
    Disable,
    Prefer,
    Require,
}

impl Mode {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" | "verify-ca" | "verify-full" => Ok(Self::Require),
            _ => Err("expected sslmode disable, prefer, require or verify-full"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Parses a URL that is known to be valid, for the tests of stores.
    pub(crate) fn parsed(url: &str) -> StoreAddress {
        parse(url).unwrap()
    }

    fn parse(text: &str) -> Result<StoreAddress, String> {
        StoreAddress::parse(Path::new("/etc"), text, &|_| None)
    }

    fn encryption(text: &str) -> Encryption {
        match parse(text).unwrap() {
            StoreAddress::Postgres(postgres) => postgres.encryption,
            StoreAddress::Sqlite(path) => panic!("{}", path.display()),
        }
    }

    #[test]
    fn what_leaves_the_machine_is_verified_unless_switched_off() {
        for local in [
            "postgres://u@localhost/d",
            "postgres://u@127.0.0.1:5433/d?sslmode=prefer",
            "postgres://u@%2Frun%2Fpostgresql/d",
            "postgres:///d?host=/run/postgresql&user=u",
            "postgres://u@db.example.com/d?sslmode=disable",
        ] {
            assert_eq!(encryption(local), Encryption::Off, "{local}");
        }
        for remote in [
            "postgres://u@db.example.com/d",
            "postgres://u@db.example.com/d?sslmode=prefer",
            "postgres://u@127.0.0.1,db.example.com/d",
            "postgres://u@localhost/d?sslmode=require",
            "postgres://u@localhost/d?hostaddr=10.0.0.1",
        ] {
            let verified = Encryption::Verified { roots: None };
            assert_eq!(encryption(remote), verified, "{remote}");
        }
        let with_roots = encryption("postgres://u@h/d?sslmode=verify-full&sslrootcert=pg%20ca.pem");
        let roots = Some(PathBuf::from("/etc/pg ca.pem"));
        assert_eq!(with_roots, Encryption::Verified { roots });
        let warned = parse("postgres://u@h/d?sslmode=disable").unwrap().warning();
        assert!(warned.is_some());
        assert!(
            parse("postgres://u@localhost/d")
                .unwrap()
                .warning()
                .is_none()
        );
    }

    #[test]
    fn it_is_shown_without_its_password() {
        for (text, shown) in [
            ("postgres://u:geheim@h:5433/d", "postgres://u@h:5433/d"),
            (
                "postgresql://u:geheim@h1:1,h2:2/d?sslmode=disable",
                "postgres://u@h1:1,h2:2/d",
            ),
            (
                "postgres://u@%2Frun%2Fpg/d?password=geheim",
                "postgres://u@/run/pg:5432/d",
            ),
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("geheim"));
        }
        let from_env = |name: &str| (name == "PGPASSWORD").then(|| "geheim".to_owned());
        let address = StoreAddress::parse(Path::new("/"), "postgres://u@h/d", &from_env);
        let StoreAddress::Postgres(postgres) = address.unwrap() else {
            panic!("a database was named");
        };
        assert_eq!(postgres.config.get_password(), Some("geheim".as_bytes()));
    }

    #[test]
    fn a_password_is_found_where_libpq_looks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        let lines = "# a comment\nh2:*:*:*:no\nh:5432:d:u\\:v:ge\\:hei:m\n*:*:*:*:other\n";
        std::fs::write(&path, lines).unwrap();
        let env = |name: &str| (name == "PGPASSFILE").then(|| path.display().to_string());
        let found = |url| match StoreAddress::parse(Path::new("/"), url, &env).unwrap() {
            StoreAddress::Postgres(at) => at.config.get_password().map(<[u8]>::to_vec),
            StoreAddress::Sqlite(path) => panic!("{}", path.display()),
        };
        assert_eq!(found("postgres://u%3Av@h/d").unwrap(), b"ge:hei:m");
        assert_eq!(found("postgres://u@h:5433/d").unwrap(), b"other");
        assert_eq!(found("postgres://u:own@h/d").unwrap(), b"own");
        let nowhere = |name: &str| (name == "PGPASSFILE").then(|| "/nowhere".to_owned());
        let said = StoreAddress::parse(Path::new("/"), "postgres://u@h/d", &nowhere).unwrap_err();
        assert!(said.contains("PGPASSFILE"), "{said}");
    }

    #[test]
    fn a_wrong_one_is_not_quoted() {
        for wrong in [
            "postgres://u:geheim@ss@h/d",
            "postgres://u:geheim@h:port/d",
            "postgres://u:geheim@h",
            "postgres://h/geheim",
            "postgres://u:geheim@h/d?sslmode=allow",
            "postgres://",
            "geheim",
        ] {
            let said = parse(wrong).unwrap_err();
            assert!(said.starts_with("expected "), "{wrong}: {said}");
            assert!(!said.contains("geheim"), "{said}");
        }
    }
}
