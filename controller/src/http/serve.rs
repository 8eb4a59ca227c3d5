//! Connections: taken, bounded in number and in time, and ended when told to. What is served is not known here.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::exit::StartError;

/// Connections at once; further ones wait to be taken. Far more than probes, a scraper and the API server's proxy open.
const CONNECTIONS: usize = 512;
/// Wait after the system refused a connection, mostly for lack of file descriptors.
const BREATH: Duration = Duration::from_millis(200);

/// `--read-timeout` and `--write-timeout`.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a request to come.
    pub read: Duration,
    /// For its answer to be made, and taken by the client.
    pub write: Duration,
}

/// Takes the address now, so that one that is taken ends the process and not just a log line.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = match TcpListener::bind(address).await {
        // There is no IPv6.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|source| StartError::Listen { address, source })
}

/// Serves until `stop`, then ends what is under way.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    timeouts: Timeouts,
    stop: CancellationToken,
) -> io::Result<()> {
    let (places, connections) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    let next = async || {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        Ok::<_, io::Error>((listener.accept().await?.0, place))
    };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next() => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let connection = connection(stream, routes.clone(), timeouts, stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection; trying again");
                sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Serves one connection, but not for ever: each request moves its end, and a client that is slow to send, to read or to
/// ask again is cut off there.
async fn connection(stream: TcpStream, routes: Router, timeouts: Timeouts, stop: CancellationToken) {
    let Timeouts { read, write } = timeouts;
    let end = watch::Sender::new(Instant::now() + read);
    let moved = end.clone();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        moved.send_replace(Instant::now() + read + write);
        routes.clone().oneshot(request.map(Body::new))
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = pin!(serving);
    let mut stopping = false;
    loop {
        let until = *end.borrow();
        tokio::select! {
            biased; // what has arrived is not late
            // A client that breaks off has nobody to be told about it.
            _ = serving.as_mut() => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = sleep_until(until) => if *end.borrow() == until { return },
        }
    }
}
