//! An API server of a few lines, with a controller behind its service proxy that answers as a test wants. For what real
//! ones cannot be made to do; `tests/` has the real ones.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// In lower case.
    pub headers: Vec<String>,
    pub body: String,
}

/// Listens until the process ends.
pub struct Stub {
    pub address: String,
    pub seen: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    /// Answers each request, but those for a Service, with a status and a body.
    pub fn start(answer: impl Fn(&Request) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &log, &answer);
            }
        });
        Self { address, seen }
    }

    /// What was asked of the controller.
    pub fn asked(&self) -> Vec<Request> {
        self.seen.lock().unwrap().iter().filter(|request| request.path.contains("/proxy/")).cloned().collect()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &impl Fn(&Request) -> (u16, String)) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let [Some(method), Some(path)] = [0, 1].map(|word| line.split(' ').nth(word).map(str::to_owned)) else { return };
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim() {
            "" => break,
            header => headers.push(header.to_lowercase()),
        }
    }
    let length = headers.iter().find_map(|header| header.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let request = Request { method, path, headers, body: String::from_utf8(body).unwrap() };
    log.lock().unwrap().push(request.clone());
    let service = r#"{"kind": "Service", "apiVersion": "v1", "metadata": {"name": "c"}, "spec": {"ports": [{"name": "http", "port": 8080}]}}"#;
    let is_service = request.path.contains("/services/") && !request.path.contains("/proxy/");
    let (status, body) = if is_service { (200, service.to_owned()) } else { answer(&request) };
    let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = reader.get_mut().write_all((head + &body).as_bytes());
}
