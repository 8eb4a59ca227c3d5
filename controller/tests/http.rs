//! The endpoints over real connections: codes, limits, and what a client of bad will gets. How kubeseal gets on with
//! them is shown end to end.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use clap::Parser as _;
use controller::{
    args::Args,
    context::SealedSecrets,
    http::{Endpoints, Rate, Timeouts, bind, main_routes, metrics_routes, serve},
    metrics::Metrics,
    pulse::Pulses,
};
use crds::{
    Certificate, KeyRing, PrivateKey, Scope,
    key::{KeyRequest, mint},
    key_ring::RingKey,
    seal, yaml,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How soon an answer must be there on a machine that does other things too.
const SOON: Duration = Duration::from_secs(30);
const PATIENT: Timeouts = Timeouts { read: SOON, write: SOON };
const HASTY: Timeouts = Timeouts { read: Duration::from_millis(500), write: Duration::from_millis(500) };

/// A server on loopback.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<std::io::Result<()>>,
}

#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Server {
    async fn start(routes: Router, timeouts: Timeouts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let ended = tokio::spawn(serve(listener, routes, timeouts, stop.clone()));
        Self { address, stop, ended }
    }

    async fn of(endpoints: &Endpoints) -> Self {
        Self::start(main_routes(endpoints), endpoints.timeouts).await
    }

    async fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that has answered already may have hung up.
        let _ = stream.write_all(bytes.as_bytes()).await;
        stream
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}");
        answer(self.send(&format!("{head}content-length: {length}\r\n\r\n{body}")).await).await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "", body).await
    }
}

/// All that comes until the server hangs up.
async fn answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    Answer { code, head: head.to_lowercase(), body: body.to_owned() }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../crds/testdata/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn ring_key(private: &str, certificate_pem: &str) -> RingKey {
    let certificate = Certificate::from_pem(certificate_pem).unwrap();
    RingKey {
        private: Arc::new(PrivateKey::from_pem(private).unwrap()),
        born: certificate.not_before(),
        certificate: Some(Arc::new(certificate)),
        certificate_pem: certificate_pem.into(),
    }
}

fn key(not_before: Timestamp, lifetime: SignedDuration) -> RingKey {
    let request = KeyRequest { bits: 2048, common_name: String::new(), not_before, lifetime };
    let minted = mint(&request, &mut rand::rng()).unwrap();
    ring_key(&minted.private_key_pem, &minted.certificate_pem)
}

fn today() -> RingKey {
    key(Timestamp::now(), SignedDuration::from_hours(1))
}

fn endpoints(keys: impl IntoIterator<Item = RingKey>) -> Endpoints {
    let (_, ring) = watch::channel(Arc::new(KeyRing::from_iter(keys)));
    let (_, listed) = watch::channel(true);
    Endpoints {
        ring,
        metrics: Metrics::new(Timestamp::UNIX_EPOCH),
        sealed: SealedSecrets::default(),
        listed,
        omit_names: false,
        timeouts: PATIENT,
        rate: Rate { per_second: NonZeroU32::MAX, burst: 1_000 },
        accept_deprecated: true,
        gate: None,
        hooks: None,
        pulses: Pulses::default(),
        stopping: CancellationToken::new(),
    }
}

/// shop/db, sealed for the key.
fn sealed(key: &RingKey) -> Value {
    let secret = json!({"metadata": {"name": "db", "namespace": "shop"}, "stringData": {"password": "hunter2"}});
    let secret = serde_json::from_value(secret).unwrap();
    let sealed = seal::secret(&secret, Scope::Strict, key.certificate.as_ref().unwrap(), &mut rand::rng());
    serde_json::to_value(sealed.unwrap()).unwrap()
}

#[tokio::test]
async fn verify_answers_as_upstream_and_says_why() {
    let key = today();
    let server = Server::of(&endpoints([key.clone()])).await;
    let good = sealed(&key);
    for body in [good.to_string(), yaml::to_string(&good).unwrap()] {
        let answer = server.post("/v1/verify", &body).await;
        assert_eq!((answer.code, answer.body.as_str()), (200, ""));
    }
    let mut elsewhere = good.clone();
    elsewhere["metadata"]["namespace"] = json!("hunter3");
    let mut cut = good.clone();
    cut["spec"]["encryptedData"]["password"] = json!("AgAB");
    let two = format!("{good}\n{good}");
    for (body, code, why) in [
        (elsewhere.to_string(), 409, "no key could decrypt secret: "),
        (file("old-key.yaml"), 409, "no key could decrypt secret: "),
        (cut.to_string(), 409, "encryptedData.password is truncated"),
        (String::new(), 500, "the body is empty"),
        (two, 500, "the body holds more than one document"),
        ("{\"hunter3\": ".to_owned(), 500, "the body is neither JSON nor YAML: line 1: "),
        ("kind: Secret\nstringData: {a: hunter3}".to_owned(), 500, "this is not a SealedSecret"),
    ] {
        let answer = server.post("/v1/verify", &body).await;
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(answer.body.starts_with(why) && !answer.body.contains("hunter"), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
}

/// Nothing in an answer tells which of the reasons holds why something does not open.
#[tokio::test]
async fn what_does_not_open_is_answered_alike_byte_for_byte() {
    let (key, stranger) = (today(), today());
    let server = Server::of(&endpoints([key.clone()])).await;
    let good = sealed(&key);
    let with_blob = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut object = good.clone();
        let mut blob = crds::base64::decode(object["spec"]["encryptedData"]["password"].as_str().unwrap()).unwrap();
        change(&mut blob);
        object["spec"]["encryptedData"]["password"] = json!(crds::base64::encode(&blob));
        object
    };
    let mut label = good.clone();
    label["metadata"]["name"] = json!("other");
    let small = file("small-key.yaml");
    let small = yaml::documents(&small).remove(0).value.unwrap();
    let cases = [
        ("wrong key", sealed(&stranger)),
        ("wrong label", label),
        ("wrong padding", with_blob(&|blob| blob[100] ^= 1)),
        ("a number that no key makes", with_blob(&|blob| blob[2..258].fill(0xff))),
        ("corrupted value", with_blob(&|blob| *blob.last_mut().unwrap() ^= 1)),
        ("corrupted tag of another length", with_blob(&|blob| blob.extend([0; 9]))),
        ("unknown size", small),
    ];
    for path in ["/v1/verify", "/v1/rotate"] {
        for accept in ["", "accept: application/json\r\n"] {
            let mut answers = Vec::new();
            for (name, object) in &cases {
                let answer = server.ask("POST", path, accept, &object.to_string()).await;
                // The time of day and what is left of the rate say nothing of the body.
                let passing = ["date: ", "x-ratelimit-remaining: ", "x-ratelimit-reset: "];
                let head = answer.head.lines().filter(|line| !passing.iter().any(|name| line.starts_with(name)));
                answers.push((name, head.collect::<Vec<_>>().join("\n"), answer.body.clone()));
            }
            assert!(answers[0].2.contains("no key could decrypt secret"), "{answers:?}");
            for (name, head, body) in &answers {
                assert_eq!((head, body), (&answers[0].1, &answers[0].2), "{path} {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_is_a_status_for_who_asks_for_json() {
    let server = Server::of(&endpoints([today()])).await;
    let answer = server.ask("POST", "/v1/rotate", "accept: application/json, */*\r\n", &file("strict.yaml")).await;
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.code, answer.header("content-type")), (500, Some("application/json")));
    assert_eq!(
        (&status["kind"], &status["status"], &status["code"]),
        (&json!("Status"), &json!("Failure"), &json!(500))
    );
    assert!(status["message"].as_str().unwrap().starts_with("no key could decrypt secret"));
}

#[tokio::test]
async fn rotate_answers_json_for_the_newest_key() {
    let (old, new) = (key(Timestamp::UNIX_EPOCH, SignedDuration::from_hours(1)), today());
    let server = Server::of(&endpoints([old.clone(), new.clone()])).await;
    let answer = server.post("/v1/rotate", &sealed(&old).to_string()).await;
    assert_eq!((answer.code, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    let server = Server::of(&endpoints([new])).await;
    assert_eq!(server.post("/v1/verify", &answer.body).await.code, 200, "the new key alone opens it");
}

#[tokio::test]
async fn the_deprecated_form_is_refused_where_it_is_switched_off() {
    let key = today();
    let blob = key.certificate.as_ref().unwrap().seal(
        b"{\"kind\":\"Secret\",\"apiVersion\":\"v1\"}",
        "shop/db",
        &mut rand::rng(),
    );
    let mut old = sealed(&key);
    old["spec"] = json!({"data": crds::base64::encode(&blob.unwrap()), "encryptedData": {}});
    let accepting = endpoints([key]);
    assert_eq!(Server::of(&accepting).await.post("/v1/verify", &old.to_string()).await.code, 200);
    let refusing = Server::of(&Endpoints { accept_deprecated: false, ..accepting }).await;
    let answer = refusing.post("/v1/verify", &old.to_string()).await;
    assert!(
        answer.code == 409 && answer.body.starts_with("spec.data, the deprecated form, is not accepted"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_certificate_that_ended_is_not_served() {
    let ended = endpoints([key(Timestamp::UNIX_EPOCH, SignedDuration::from_hours(1))]);
    let body = sealed(ended.ring.borrow().newest().unwrap()).to_string();
    let server = Server::of(&ended).await;
    for answer in [server.ask("GET", "/v1/cert.pem", "", "").await, server.post("/v1/rotate", &body).await] {
        assert_eq!(answer.code, 500);
        assert!(answer.body.starts_with("the newest certificate expired at 1970-01-01T01:00:00Z"), "{answer:?}");
    }
    assert_eq!(server.post("/v1/verify", &body).await.code, 200, "it still opens");

    let none = Server::of(&endpoints([])).await;
    for answer in [none.ask("GET", "/v1/cert.pem", "", "").await, none.post("/v1/verify", &body).await] {
        assert_eq!((answer.code, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    }
    let answer = none.ask("GET", "/readyz", "", "").await;
    assert_eq!((answer.code, answer.body.as_str()), (503, "not ready: there is no key yet\n"));
}

#[tokio::test]
async fn what_is_stuck_is_named_and_who_stops_is_not_ready() {
    let told = endpoints([today()]);
    let server = Server::of(&told).await;
    let ask = async |path| {
        let answer = server.ask("GET", path, "", "").await;
        (answer.code, answer.body)
    };
    let going_on = told.pulses.begin("keys", "", SOON);
    let stuck = told.pulses.begin("sync", "shop/app", Duration::ZERO);
    // Once in each namespace and twice in the answer would be no better.
    let again = told.pulses.begin("sync", "shop/other", Duration::ZERO);
    assert_eq!(ask("/healthz").await, (503, "stuck: sync; the log says with what\n".to_owned()));
    assert_eq!(ask("/readyz").await.0, 200, "it still serves");
    drop((stuck, again));
    assert_eq!(ask("/healthz").await, (200, "ok\n".to_owned()));
    drop(going_on);

    told.stopping.cancel();
    assert_eq!(ask("/readyz").await, (503, "not ready: the controller is stopping\n".to_owned()));
    assert_eq!(ask("/healthz").await.0, 200, "nothing is wrong with it");
}

#[tokio::test]
async fn methods_and_paths_are_those_that_are_used() {
    let key = today();
    let pem = key.certificate_pem.to_string();
    let server = Server::of(&endpoints([key])).await;
    let answer = server.ask("GET", "/v1/cert.pem", "", "").await;
    assert_eq!((answer.code, answer.header("content-type")), (200, Some("application/x-pem-file")));
    assert_eq!(answer.body, pem);
    let head = server.ask("HEAD", "/v1/cert.pem", "", "").await;
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    for path in ["/healthz", "/readyz"] {
        let answer = server.ask("GET", path, "", "").await;
        assert_eq!((answer.code, answer.body.as_str()), (200, "ok\n"), "{path}");
    }
    for (method, path, allowed) in [
        ("DELETE", "/v1/cert.pem", "get, head"),
        ("POST", "/healthz", "get, head"),
        ("GET", "/v1/verify", "post"),
        ("PUT", "/v1/rotate", "post"),
    ] {
        let answer = server.ask(method, path, "", "").await;
        assert_eq!((answer.code, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    assert_eq!(server.ask("GET", "/v1/keys", "", "").await.code, 404);
}

#[tokio::test]
async fn too_many_requests_are_refused_whatever_a_client_calls_itself() {
    let key = today();
    let rate = Rate { per_second: NonZeroU32::MIN, burst: 2 };
    // A second is long enough: RSA in a test is not.
    let server = Server::of(&Endpoints { rate, ..endpoints([key.clone()]) }).await;
    let mut codes = Vec::new();
    for client in 1..=6 {
        let headers = format!("x-forwarded-for: 10.0.0.{client}\r\n");
        // What is refused for its shape counts as well.
        let answer = server.ask("POST", "/v1/verify", &headers, "{}").await;
        assert_eq!(answer.header("x-ratelimit-limit"), Some("3"));
        if answer.code == 429 {
            assert_eq!(answer.header("x-ratelimit-remaining"), Some("0"));
            assert_eq!((answer.header("retry-after"), answer.body.as_str()), (Some("1"), "limit exceeded\n"));
        }
        codes.push(answer.code);
    }
    assert!(codes[..3].iter().all(|code| *code == 500) && codes[3..].contains(&429), "{codes:?}");
    assert_eq!(server.post("/v1/rotate", &sealed(&key).to_string()).await.code, 200, "each path by itself");
    assert_eq!(server.ask("GET", "/v1/cert.pem", "", "").await.code, 200, "never limited");
}

/// A proxy sends the head first, and asks again on the same connection.
#[tokio::test]
async fn a_refused_request_is_read_to_its_end_and_its_connection_stays() {
    let rate = Rate { per_second: NonZeroU32::MIN, burst: 0 };
    let server = Server::of(&Endpoints { rate, ..endpoints([today()]) }).await;
    let mut stream = server.send("").await;
    let mut codes = Vec::new();
    for _ in 0..20 {
        stream.write_all(b"POST /v1/verify HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(" ".repeat(100_000).as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
        codes.push(head[9..12].to_owned());
    }
    assert!(codes.iter().any(|code| code == "429"), "{codes:?}");
}

#[tokio::test]
async fn a_body_has_a_limit_announced_or_not() {
    let server = Server::of(&endpoints([today()])).await;
    let announced = server.send("POST /v1/verify HTTP/1.1\r\nhost: x\r\ncontent-length: 10485761\r\n\r\n").await;
    let announced = answer(announced).await;
    assert_eq!((announced.code, announced.body.as_str()), (413, "the body is larger than 10 MiB\n"));

    let stream = server.send("POST /v1/verify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let (mut reads, mut writes) = stream.into_split();
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let writing = tokio::spawn(async move { while writes.write_all(chunk.as_bytes()).await.is_ok() {} });
    let mut start = [0; 12];
    timeout(SOON, reads.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    writing.abort();
}

#[tokio::test]
async fn a_slow_client_is_cut_off() {
    let hasty = Endpoints { timeouts: HASTY, ..endpoints([today()]) };
    let server = Server::of(&hasty).await;
    let silent = answer(server.send("").await).await;
    assert_eq!(silent.code, 0, "no request, no answer");
    let half_a_head = answer(server.send("GET /healthz HTTP/1.1\r\nhost").await).await;
    assert_eq!(half_a_head.code, 0);
    let half_a_body = server.send("POST /v1/verify HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").await;
    assert_eq!(answer(half_a_body).await.code, 408);
    let idle = answer(server.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert_eq!(idle.code, 200, "hung up on after the answer: {idle:?}");
}

/// More than the buffers between the two ends hold, and nobody who reads it.
#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let routes = Router::new().route("/", get(|| async { vec![b'x'; 64 << 20] }));
    let server = Server::start(routes, HASTY).await;
    let mut stream = server.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut first = [0; 8];
    timeout(SOON, stream.read_exact(&mut first)).await.unwrap().unwrap();
    server.stop.cancel();
    timeout(SOON, server.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_is_under_way_is_ended_well() {
    let key = today();
    let server = Server::of(&endpoints([key.clone()])).await;
    let body = sealed(&key).to_string();
    let head = format!(
        "POST /v1/verify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    let mut stream = server.send(&head).await;
    let mut go_on = [0; 25];
    timeout(SOON, stream.read_exact(&mut go_on)).await.unwrap().unwrap();
    server.stop.cancel();
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(answer(stream).await.code, 200);
    timeout(SOON, server.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn requests_are_counted_as_upstream_counts_them() {
    let endpoints = endpoints([today()]);
    let server = Server::of(&endpoints).await;
    server.ask("GET", "/v1/cert.pem", "", "").await;
    server.post("/v1/verify", "").await;
    server.ask("NONSENSE", "/v1/verify", "", "").await;
    server.ask("GET", "/healthz", "", "").await;
    let scraped = Server::start(metrics_routes(endpoints), PATIENT).await;
    let plain = scraped.ask("GET", "/metrics", "", "").await;
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "# TYPE sealed_secrets_controller_http_requests_total counter",
        "sealed_secrets_controller_http_requests_total{path=\"/v1/cert.pem\",code=\"200\",method=\"get\"} 1",
        "sealed_secrets_controller_http_requests_total{path=\"/v1/verify\",code=\"500\",method=\"post\"} 1",
        "sealed_secrets_controller_http_requests_total{path=\"/v1/verify\",code=\"405\",method=\"unknown\"} 1",
        "sealed_secrets_controller_http_request_duration_seconds_count{path=\"/v1/cert.pem\",method=\"get\"} 1",
        "sealed_secrets_controller_unseal_requests_total 0",
        "# TYPE process_cpu_seconds_total counter",
        "process_start_time_seconds 0",
    ] {
        assert!(plain.body.lines().any(|it| it == line), "{line}\n{}", plain.body);
    }
    assert!(!plain.body.contains("healthz") && plain.body.contains("newest_key_expiry_timestamp_seconds"));
    let open = scraped.ask("GET", "/metrics", "accept: application/openmetrics-text;version=1.0.0\r\n", "").await;
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.body.ends_with("# EOF\n"));
}

/// As Go listens on `:8080`: a Pod may have addresses of one family or of both.
#[tokio::test]
async fn all_addresses_are_those_of_both_families() {
    let args = Args::try_parse_from(["signet-controller", "--listen-addr=:0"]).unwrap();
    let listener = bind(args.http.listen_addr).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for address in ["127.0.0.1", "::1"] {
        // A machine may have no IPv6.
        if TcpListener::bind((address, 0)).await.is_ok() {
            TcpStream::connect((address, port)).await.unwrap();
        }
    }
}
