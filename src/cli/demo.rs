//! `countersign demo`: the round trip on real sockets, with a stand-in platform and the real sidecar.

use std::fs;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Response, header};
use tempfile::TempDir;
use tokio::net::TcpListener;
use url::Url;

use super::Failure;
use crate::http::client::{Client, Repeat, Transport};
use crate::http::serve::{App, Limits, serve};
use crate::lifetime::Lifetime;
use crate::observe::Metrics;
use crate::protocol::key::Key;
use crate::sandbox::{Exchange, Sandbox};

const MERID: &str = "100000000000001";
const FIRST_KEY: &str = "demo-key-one-0123456789abcdef0123";
const SECOND_KEY: &str = "demo-key-two-0123456789abcdef0123";

#[derive(Args)]
pub(super) struct Demo {
    /// Go through the steps and end, instead of staying up to be tried
    #[arg(long)]
    once: bool,
}

pub(super) fn demo(args: &Demo) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| failed("no runtime", &error))?;
    runtime.block_on(async {
        let stage = Stage::set().await?;
        let mut signals = Signals::listen()?;
        tokio::select! {
            () = signals.recv() => Ok(()),
            played = async {
                stage.play().await?;
                if args.once {
                    return Ok(());
                }
                stage.say_what_to_try();
                std::future::pending().await
            } => played,
        }
    })
}

/// The platform, the sidecar and the app, each at its own address.
struct Stage {
    folder: TempDir,
    sandbox: Arc<Sandbox>,
    platform: SocketAddr,
    app: SocketAddr,
    admin: SocketAddr,
    client: Client,
    admin_client: Client,
    _sidecar: Sidecar,
}

/// The sidecar's process; it ends with the demo.
struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    async fn set() -> Result<Self, Failure> {
        let (sandbox, platform) = start_sandbox().await?;
        let folder = TempDir::with_prefix("countersign-demo-")
            .map_err(|error| failed("temporary folder", &error))?;
        let (app, admin) = (free_address()?, free_address()?);
        write_config(folder.path(), platform, app, admin)?;
        let sidecar = start_sidecar(folder.path())?;
        let stage = Self {
            sandbox,
            platform,
            app,
            admin,
            client: client(app)?,
            admin_client: client(admin)?,
            _sidecar: sidecar,
            folder,
        };
        stage.wait_until_ready().await?;
        println!("stand-in platform  http://{platform}");
        println!("countersign        http://{app} for the app, http://{admin} for ops");
        println!("its two files      {}", stage.folder.path().display());
        Ok(stage)
    }

    async fn play(&self) -> Result<(), Failure> {
        let submit = format!(
            r#"{{"action":"AliPay","txnamt":1280,"merid":"{MERID}","orderid":"DEMO20170301","backurl":"https://shop.example.com/pay/back","memo":"张三 ~~~"}}"#
        );
        let query = format!(r#"{{"merid":"{MERID}","orderid":"DEMO20170301"}}"#);
        self.step("1. The app submits an order", "/api/icashier", &submit)
            .await?;
        self.step("2. The app asks how it went", "/api/query", &query)
            .await?;
        self.pay().await?;
        println!("\n3. The customer pays on the platform's page.");
        self.step("4. The app asks again", "/api/query", &query)
            .await?;
        self.change_key().await?;
        self.step(
            "6. The app asks once more, and knows nothing of the new key",
            "/api/query",
            &query,
        )
        .await?;
        println!("\nDone: the app never saw a key, a base64 text or a sign.");
        Ok(())
    }

    /// One call of the app, and what it became on the wire.
    async fn step(&self, title: &str, path: &str, json: &str) -> Result<(), Failure> {
        println!("\n{title}: POST http://{}{path}", self.app);
        println!("   plain     {json}");
        let response = self.post(&self.client, path, json).await?;
        let wire = self.sandbox.take_last();
        let wire =
            wire.ok_or_else(|| Failure::No("the platform heard nothing of this call".to_owned()))?;
        show_wire(&wire);
        let verified = response
            .headers()
            .get("countersign-verified")
            .and_then(|flag| flag.to_str().ok());
        let body = String::from_utf8_lossy(response.body());
        match (
            response.status().as_u16(),
            response.headers().get(header::LOCATION),
        ) {
            (302, Some(to)) => println!("   relayed   302, {}", to.to_str().unwrap_or_default()),
            (200, _) if verified == Some("true") => println!("   verified  {body}"),
            (status, _) => {
                return Err(Failure::No(format!(
                    "expected a verified answer, got {status}: {body}"
                )));
            }
        }
        Ok(())
    }

    async fn post(
        &self,
        client: &Client,
        path: &str,
        json: &str,
    ) -> Result<Response<Bytes>, Failure> {
        let headers = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]);
        let body = Bytes::copy_from_slice(json.as_bytes());
        let response = client.post(path, &headers, body, Repeat::Never).await;
        response
            .map_err(|fault| Failure::No(format!("POST {path}: {fault}\n{}", self.sidecar_log())))
    }

    /// What a browser would do on the payment page.
    async fn pay(&self) -> Result<(), Failure> {
        let customer = client(self.platform)?;
        let paid = customer
            .post(
                "/pay?Q00000000000000001",
                &HeaderMap::new(),
                Bytes::new(),
                Repeat::Never,
            )
            .await;
        self.sandbox.take_last();
        paid.map(|_| ())
            .map_err(|fault| Failure::No(format!("the payment page: {fault}")))
    }

    /// Edits the key file as ops would, and waits until the sidecar has it in force.
    async fn change_key(&self) -> Result<(), Failure> {
        let file = self.folder.path().join("merchants.toml");
        println!(
            "\n5. The platform gives out a new key, and ops edit {} while all is running.",
            file.display()
        );
        self.sandbox.set_key(MERID, key(SECOND_KEY)?);
        let before = self.loaded_at().await?;
        let started = Instant::now();
        write(&file, &merchants(SECOND_KEY))?;
        while self.loaded_at().await? == before {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(Failure::No(format!(
                    "the new key is not in force\n{}",
                    self.sidecar_log()
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!(
            "   in force after {} ms, without a restart",
            started.elapsed().as_millis()
        );
        Ok(())
    }

    /// When the merchants in force were loaded, as the metrics say.
    async fn loaded_at(&self) -> Result<String, Failure> {
        let metrics = self.get("/metrics").await?;
        let name = "countersign_merchants_loaded_timestamp_seconds ";
        Ok(metrics
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
            .to_owned())
    }

    async fn get(&self, path: &str) -> Result<String, Failure> {
        let response = self.admin_client.get(path, &HeaderMap::new()).await;
        let response = response.map_err(|fault| Failure::No(format!("GET {path}: {fault}")))?;
        Ok(String::from_utf8_lossy(response.body()).into_owned())
    }

    async fn wait_until_ready(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.get("/readyz").await.ok().as_deref() != Some("ready\n") {
            if Instant::now() > deadline {
                return Err(Failure::No(format!(
                    "the sidecar does not start\n{}",
                    self.sidecar_log()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn sidecar_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("sidecar.log")).unwrap_or_default()
    }

    fn say_what_to_try(&self) {
        let Self { app, admin, .. } = self;
        let edit = self.folder.path().join("merchants.toml");
        println!(
            "\nTry it yourself, Ctrl-C ends everything:
  curl -s http://{app}/api/query -d '{{\"orderid\":\"DEMO20170301\"}}'
  curl -si http://{app}/api/icashier -d '{{\"action\":\"AliPay\",\"txnamt\":1,\"orderid\":\"MYORDER01\",\"backurl\":\"https://shop.example.com/b\"}}'
  curl -s http://{app}/apis/icashier -d '{{\"action\":\"Bank\",\"txnamt\":500,\"orderid\":\"MYORDER02\",\"backurl\":\"https://shop.example.com/b\"}}'
  curl -s http://{app}/api/query -d '{{\"orderid\":\"DEMO20170301\",\"orderid\":\"MYORDER01\"}}'    # refused, nothing sent
  curl -s http://{admin}/metrics
  echo oops >> {}; sleep 1; curl -s -X POST http://{admin}/-/reload    # a bad edit changes nothing",
            edit.display()
        );
    }
}

fn show_wire(wire: &Exchange) {
    println!("   signed    {} {}", wire.request_line, wire.request);
    match &wire.location {
        Some(url) => println!("   answered  {} Location: {url}", wire.status),
        None => println!("   answered  {} {}", wire.status, wire.response),
    }
}

async fn start_sandbox() -> Result<(Arc<Sandbox>, SocketAddr), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| failed("stand-in platform", &error))?;
    let address = listener
        .local_addr()
        .map_err(|error| failed("stand-in platform", &error))?;
    let sandbox = Arc::new(Sandbox::new(format!("http://{address}")));
    sandbox.set_key(MERID, key(FIRST_KEY)?);
    let limits = Limits {
        max_body: 64 * 1024,
        max_in_flight: 256,
        max_connections: 1024,
    };
    let app = App::new(sandbox.clone(), limits, Arc::new(Lifetime::default()));
    tokio::spawn(serve(listener, Arc::new(app)));
    Ok((sandbox, address))
}

fn start_sidecar(folder: &Path) -> Result<Sidecar, Failure> {
    let program =
        std::env::current_exe().map_err(|error| failed("this program's own path", &error))?;
    let log = fs::File::create(folder.join("sidecar.log"))
        .map_err(|error| failed("sidecar.log", &error))?;
    let child = Command::new(program)
        .args(["run", "--config"])
        .arg(folder.join("countersign.toml"))
        .env_remove("COUNTERSIGN_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    child
        .map(Sidecar)
        .map_err(|error| failed("the sidecar", &error))
}

fn write_config(
    folder: &Path,
    platform: SocketAddr,
    app: SocketAddr,
    admin: SocketAddr,
) -> Result<(), Failure> {
    let settings = format!(
        "merchants = \"merchants.toml\"\n\n[app]\nlisten = [\"{app}\"]\n\n[platform]\nurl = \"http://{platform}\"\n\n\
         [admin]\nlisten = \"{admin}\"\n"
    );
    write(&folder.join("countersign.toml"), &settings)?;
    write(&folder.join("merchants.toml"), &merchants(FIRST_KEY))
}

fn merchants(key: &str) -> String {
    format!("[[merchant]]\nmerid = \"{MERID}\"\nkey = \"{key}\"\n")
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| failed(&path.display().to_string(), &error))
}

fn client(address: SocketAddr) -> Result<Client, Failure> {
    let url =
        Url::parse(&format!("http://{address}")).map_err(|error| Failure::No(error.to_string()))?;
    let time = Duration::from_secs(10);
    let transport = Transport::new(None, Arc::new(Metrics::default())).map_err(Failure::No)?;
    Client::new(&url, time, time, transport).map_err(Failure::No)
}

fn free_address() -> Result<SocketAddr, Failure> {
    let listener = StdListener::bind("127.0.0.1:0");
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_err(|error| failed("a free port", &error))
}

fn key(text: &str) -> Result<Key, Failure> {
    Key::new(text).map_err(|error| Failure::No(error.to_string()))
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::No(format!("{what}: {error}"))
}

/// Ctrl-C, and what a supervisor sends.
struct Signals {
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        let terminate = terminate.map_err(|error| failed("signals", &error))?;
        Ok(Self { terminate })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
