//! `countersign demo`: a whole payment on this machine: the sandbox, the sidecar and a small shop.

mod shop;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use http::{HeaderMap, HeaderValue, header};
use tempfile::TempDir;
use tokio::net::TcpListener;
use url::Url;

use super::failure::Failure;
use super::sandbox;
use crate::cli::print::say;
use crate::config::public_keys::{DEMO_KEYS, DEMO_MERID, demo_key};
use crate::http::client::connect::Connector;
use crate::http::client::{Client, RawResponse, Repeat};
use crate::http::server::accept::serve;
use crate::http::server::service::Service;
use crate::protocol::result::ResultCode;
use crate::sandbox::Sandbox;
use crate::sandbox::dialect::Dialect;
use crate::sandbox::fault::SandboxFault;
use crate::sandbox::order::Message;
use crate::telemetry::metrics::Uncounted;
use shop::Shop;

/// Shop, app, callbacks, platform, admin.
const PORTS: [u16; 5] = [8000, 8080, 8081, 8090, 9900];
/// Nothing in the demo takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct DemoCommand {
    /// Go through the steps on free ports and end, instead of staying up to be tried
    #[arg(long)]
    once: bool,
    /// Listen on free ports instead of 8000, 8080, 8081, 8090 and 9900
    #[arg(long)]
    free_ports: bool,
}

pub(super) fn demo(args: &DemoCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|error| failed("no runtime", &error))?;
    let played = runtime.block_on(async {
        let ports = if args.once || args.free_ports {
            [0; 5]
        } else {
            PORTS
        };
        let stage = Stage::set(ports).await?;
        tokio::select! {
            ended = super::interrupted() => ended,
            played = async {
                stage.play().await?;
                if args.once {
                    return Ok(());
                }
                stage.say_what_to_try();
                std::future::pending().await
            } => played,
        }
    });
    // Connections of a browser that stays open are not waited for.
    runtime.shutdown_background();
    played
}

/// The platform, the sidecar and the shop, each at its own address.
struct Stage {
    folder: TempDir,
    platform: Arc<Sandbox>,
    shop: Arc<Shop>,
    at: DemoAddresses,
    client: Client,
    ops: Client,
    customer: Client,
    _sidecar: DemoSidecar,
}

#[derive(Clone, Copy)]
struct DemoAddresses {
    shop: SocketAddr,
    app: SocketAddr,
    callbacks: SocketAddr,
    platform: SocketAddr,
    admin: SocketAddr,
}

/// The sidecar's process; it ends with the demo.
struct DemoSidecar(Child);

impl Drop for DemoSidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    async fn set(ports: [u16; 5]) -> Result<Self, Failure> {
        let mut listeners = Vec::new();
        for port in ports {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let bound = sandbox::bind(address).await;
            listeners.push(bound.map_err(|failure| {
                Failure::Later(format!("{failure}; end that, or use --free-ports"))
            })?);
        }
        let address = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(|error| failed("an address", &error))
        };
        let [for_shop, for_app, for_callbacks, for_platform, for_admin] =
            <[TcpListener; 5]>::try_from(listeners).expect("one a port");
        let at = DemoAddresses {
            shop: address(&for_shop)?,
            app: address(&for_app)?,
            callbacks: address(&for_callbacks)?,
            platform: address(&for_platform)?,
            admin: address(&for_admin)?,
        };
        // The sidecar's own process listens on these three.
        drop((for_app, for_callbacks, for_admin));
        let platform = sandbox::platform(&for_platform, 1.0, false, Vec::new(), false)?;
        platform.set_keys(DEMO_MERID, demo_key(0), Some(demo_key(1)));
        sandbox::open(for_platform, &platform);
        let shop = start_shop(for_shop, at)?;
        let folder = TempDir::with_prefix("countersign-demo-")
            .map_err(|error| failed("temporary folder", &error))?;
        write_config(folder.path(), at)?;
        let stage = Self {
            _sidecar: start_sidecar(folder.path())?,
            platform,
            shop,
            at,
            client: client(at.app)?,
            ops: client(at.admin)?,
            customer: client(at.platform)?,
            folder,
        };
        stage.wait_until_ready().await?;
        say!("shop               http://{}/", at.shop);
        say!(
            "platform           http://{}/    (a sandbox: what happened, and faults on demand)",
            at.platform
        );
        say!(
            "countersign        http://{} for the app, http://{} for callbacks, http://{} for ops and the console",
            at.app,
            at.callbacks,
            at.admin
        );
        say!("its files          {}", stage.folder.path().display());
        say!("demo merchant      {DEMO_MERID}, key {}", DEMO_KEYS[0]);
        Ok(stage)
    }

    async fn play(&self) -> Result<(), Failure> {
        let origin = format!("http://{}", self.at.shop);
        let order = |orderid: &str| {
            format!(
                r#"{{"action":"AliPay","txnamt":1280,"merid":"{DEMO_MERID}","orderid":"{orderid}","backurl":"{origin}/pay/back","memo":"张三 ~~~"}}"#
            )
        };
        let query = format!(r#"{{"merid":"{DEMO_MERID}","orderid":"DEMO20170301"}}"#);
        self.step(
            "1. The app submits an order",
            "/api/icashier",
            &order("DEMO20170301"),
            "DEMO20170301",
        )
        .await?;
        self.step(
            "2. It asks how it went",
            "/api/query",
            &query,
            "DEMO20170301",
        )
        .await?;
        say!(
            "\n3. The customer pays; the platform calls back; the app gets the result as plain JSON."
        );
        self.pay("DEMO20170301").await?;
        self.wait_for_result("DEMO20170301").await?;
        self.announce_key().await?;
        self.platform.rotate();
        let title =
            "5. The platform changes to the new key; the app asks again, and knows nothing of it";
        self.step(title, "/api/query", &query, "DEMO20170301")
            .await?;
        say!("   rotated   countersign signs with next_key from now on");
        self.finish_rotation().await?;
        let another = order("DEMO20170302");
        let title = "6. It submits another order, and is down when the result arrives";
        self.step(title, "/api/icashier", &another, "DEMO20170302")
            .await?;
        self.shop.set_down(true);
        self.pay("DEMO20170302").await?;
        self.wait_for_notification("DEMO20170302").await?;
        say!(
            "   the platform heard 0000: the result is on disk, and the app gets it when it is back"
        );
        self.shop.set_down(false);
        self.wait_for_result("DEMO20170302").await?;
        self.show_dialect(&order("DEMO20170303")).await?;
        say!("\nDone: the app never saw a key, a base64 text or a signature.");
        Ok(())
    }

    /// Shows a notification that is written otherwise than the document has it, and is understood and counted.
    async fn show_dialect(&self, order: &str) -> Result<(), Failure> {
        let orderid = "DEMO20170303";
        let dialect = SandboxFault::Dialect(Dialect::QuotedAmount);
        self.platform.set_faults(Some(orderid), vec![dialect]);
        let title = "7. It submits a third order, and the platform puts the amounts in quotes";
        self.step(title, "/api/icashier", order, orderid).await?;
        self.pay(orderid).await?;
        self.wait_for_result(orderid).await?;
        for line in self.get("/metrics").await?.lines() {
            let is_counted = !line.ends_with(" 0");
            if line.starts_with("countersign_oddities_total{") && is_counted {
                say!("   counted   {line}");
            }
        }
        Ok(())
    }

    /// One call of the app, and what it became on the wire.
    async fn step(
        &self,
        title: &str,
        path: &str,
        json: &str,
        orderid: &str,
    ) -> Result<(), Failure> {
        say!("\n{title}: POST http://{}{path}", self.at.app);
        say!("   plain     {json}");
        let response = self.post(path, json).await?;
        let [request, answer] = self.last_messages(orderid)?;
        say!("   signed    {} {}", request.kind, request.wire);
        say!(
            "   answered  {} {}",
            answer.kind.trim_start_matches("answer "),
            answer.wire
        );
        let headers = response.headers();
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let body = String::from_utf8_lossy(response.body());
        match response.status().as_u16() {
            302 => say!("   relayed   302 Location: {}", header("location")),
            200 if header("countersign-verified") == "true" => say!("   verified  {body}"),
            status => {
                return Err(Failure::No(format!(
                    "expected a verified answer, got {status}: {body}"
                )));
            }
        }
        Ok(())
    }

    /// The last request to the platform about an order, and its response.
    fn last_messages(&self, orderid: &str) -> Result<[Message; 2], Failure> {
        let order = self.platform.order_numbered(orderid);
        let last = order.and_then(|order| order.messages.last_chunk::<2>().cloned());
        last.ok_or_else(|| Failure::No("the platform heard nothing of this call".to_owned()))
    }

    async fn post(&self, path: &str, json: &str) -> Result<RawResponse, Failure> {
        let headers = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )]);
        let response = self.client.post(path, &headers, &json, Repeat::Never).await;
        response
            .map_err(|fault| Failure::No(format!("POST {path}: {fault}\n{}", self.sidecar_log())))
    }

    /// Presses the button as the customer's browser does.
    async fn pay(&self, orderid: &str) -> Result<(), Failure> {
        let order = self.platform.order_numbered(orderid);
        let order =
            order.ok_or_else(|| Failure::No("the platform has no such order".to_owned()))?;
        let path = format!("/pay?q={}", order.queryid);
        let paid = self
            .customer
            .post(&path, &HeaderMap::new(), &"result=0000", Repeat::Never)
            .await;
        paid.map(|_| ())
            .map_err(|fault| Failure::No(format!("the payment page: {fault}")))
    }

    async fn wait_for_notification(&self, orderid: &str) -> Result<(), Failure> {
        self.wait("the platform's notification was not taken", async || {
            let order = self.platform.order_numbered(orderid);
            let told =
                |message: &Message| message.kind == "notification" && message.answer == "0000";
            Ok(order.is_some_and(|order| order.messages.iter().any(told)))
        })
        .await
    }

    async fn wait_for_result(&self, orderid: &str) -> Result<(), Failure> {
        self.wait_for_notification(orderid).await?;
        let [.., message] = self.last_messages(orderid)?;
        say!("   called    {}", message.wire);
        say!("   heard     {}", message.answer);
        self.wait("the app did not get the result", async || {
            Ok(self.shop.result(orderid) == Some(ResultCode::Paid))
        })
        .await?;
        say!("   delivered {}", message.plain);
        Ok(())
    }

    /// Adds the key that the platform will change to, as ops would.
    async fn announce_key(&self) -> Result<(), Failure> {
        say!(
            "\n4. The platform announces a new key, and ops add it to {} as next_key while all is running.",
            self.merchants_file().display()
        );
        let keys = format!("{:?}\nnext_key = {:?}", DEMO_KEYS[0], DEMO_KEYS[1]);
        let took = self.edit(&keys).await?;
        say!(
            "   in force after {} ms, without a restart; the old key goes on signing",
            took.as_millis()
        );
        Ok(())
    }

    /// Makes the new key the merchant's key, once the sidecar was seen to sign with it.
    async fn finish_rotation(&self) -> Result<(), Failure> {
        self.wait("the sidecar does not sign with next_key", async || {
            let metrics = self.get("/metrics").await?;
            Ok(metrics.contains("countersign_key_switches_total{to=\"next_key\"} 1"))
        })
        .await?;
        self.edit(&format!("{:?}", DEMO_KEYS[1])).await?;
        say!("   ops make it the key whenever they like");
        Ok(())
    }

    /// Writes the merchant with these keys, and returns how long it took until they were in force.
    async fn edit(&self, keys: &str) -> Result<Duration, Failure> {
        let before = self.loaded_at().await?;
        let started = Instant::now();
        write(&self.merchants_file(), &merchants(keys, self.at))?;
        self.wait("the new key is not in force", async || {
            Ok(self.loaded_at().await? != before)
        })
        .await?;
        Ok(started.elapsed())
    }

    fn merchants_file(&self) -> PathBuf {
        self.folder.path().join("merchants.toml")
    }

    /// Reads the time of the last reload from the metrics.
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
        let response = self.ops.get(path, &HeaderMap::new()).await;
        let response = response.map_err(|fault| Failure::No(format!("GET {path}: {fault}")))?;
        Ok(String::from_utf8_lossy(response.body()).into_owned())
    }

    async fn wait_until_ready(&self) -> Result<(), Failure> {
        self.wait("the sidecar does not start", async || {
            Ok(self.get("/readyz").await.ok().as_deref() == Some("ready\n"))
        })
        .await
    }

    async fn wait(
        &self,
        or_else: &str,
        done: impl AsyncFn() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !done().await? {
            if Instant::now() > deadline {
                return Err(Failure::No(format!("{or_else}\n{}", self.sidecar_log())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn sidecar_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("sidecar.log")).unwrap_or_default()
    }

    fn say_what_to_try(&self) {
        let DemoAddresses {
            shop,
            app,
            platform,
            admin,
            ..
        } = self.at;
        let edit = self.folder.path().join("merchants.toml");
        say!(
            "
Click: open http://{shop}/ , buy, pay; what happened stands at http://{platform}/
Or type; Ctrl-C ends everything:
  curl -s http://{app}/api/query -d '{{\"orderid\":\"DEMO20170301\"}}'
  curl -si http://{app}/api/icashier -d '{{\"action\":\"AliPay\",\"txnamt\":1,\"orderid\":\"MYORDER01\",\"backurl\":\"http://{shop}/pay/back\"}}'
  curl -s http://{app}/apis/icashier -d '{{\"action\":\"Bank\",\"txnamt\":500,\"orderid\":\"MYORDER02\",\"backurl\":\"http://{shop}/pay/back\"}}'
  curl -s http://{app}/api/query -d '{{\"orderid\":\"DEMO20170301\",\"orderid\":\"MYORDER01\"}}'    # refused, nothing sent
  curl -s http://{admin}/metrics
  echo oops >> {}; sleep 1; curl -s -X POST http://{admin}/-/reload    # a bad edit changes nothing",
            edit.display()
        );
    }
}

fn start_shop(listener: TcpListener, at: DemoAddresses) -> Result<Arc<Shop>, Failure> {
    let shop = Arc::new(Shop::new(format!("http://{}", at.shop), client(at.app)?));
    let service = Service::unmeasured("shop", shop.clone());
    tokio::spawn(serve(listener, Arc::new(service)));
    Ok(shop)
}

fn start_sidecar(folder: &Path) -> Result<DemoSidecar, Failure> {
    let program =
        std::env::current_exe().map_err(|error| failed("this program's own path", &error))?;
    let log = fs::File::create(folder.join("sidecar.log"))
        .map_err(|error| failed("sidecar.log", &error))?;
    let child = Command::new(program)
        .args(["run", "--config"])
        .arg(folder.join("countersign.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    child
        .map(DemoSidecar)
        .map_err(|error| failed("the sidecar", &error))
}

fn write_config(folder: &Path, at: DemoAddresses) -> Result<(), Failure> {
    let DemoAddresses {
        app,
        callbacks,
        platform,
        admin,
        ..
    } = at;
    let settings = format!(
        "[app]\nlisten = [\"{app}\"]\n\n[platform]\nurl = \"http://{platform}\"\n\n\
         [callbacks]\nlisten = [\"{callbacks}\"]\npublic_url = \"http://{callbacks}\"\n\n[admin]\nlisten = \"{admin}\"\n"
    );
    write(&folder.join("countersign.toml"), &settings)?;
    let keys = format!("{:?}", DEMO_KEYS[0]);
    write(&folder.join("merchants.toml"), &merchants(&keys, at))
}

/// The merchants file; `keys` is written after `key = `.
fn merchants(keys: &str, at: DemoAddresses) -> String {
    let shop = at.shop;
    format!(
        "[[merchant]]\nmerid = \"{DEMO_MERID}\"\nkey = {keys}\n\
         back = \"http://{shop}/pay/back\"\nfront = \"http://{shop}/pay/front\"\n"
    )
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| failed(&path.display().to_string(), &error))
}

fn client(address: SocketAddr) -> Result<Client, Failure> {
    let url =
        Url::parse(&format!("http://{address}")).map_err(|error| Failure::No(error.to_string()))?;
    let transport = Connector::new(None, Arc::new(Uncounted)).map_err(Failure::No)?;
    Client::new(&url, PATIENCE, PATIENCE, transport).map_err(Failure::No)
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::No(format!("{what}: {error}"))
}
