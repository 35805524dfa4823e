//! HTTP/1.1 and HTTP/2 connections, each within bounds.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::rest::client::Remote;
use crate::tls::Certificate;

/// Longest time for a request's head to arrive, and between two requests.
const HEAD_WAIT: Duration = Duration::from_secs(30);
/// Longest time for a TLS handshake.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// Most requests at a time on a connection of HTTP/2.
const MAX_STREAMS: u32 = 100;
/// Pause after an accept that failed, as when file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, by TLS where there is a certificate, at most `connections` at a time (more wait in the kernel's queue); then takes no more, and waits for
/// the requests that run.
pub(crate) async fn serve(
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
    router: Router,
    connections: usize,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, remote, place)) => {
                // Small answers leave at once; where it cannot be set they leave later.
                let _ = stream.set_nodelay(true);
                let (router, stop) = (router.clone(), stop.clone());
                let acceptor = certificate.as_ref().map(|certificate| certificate.acceptor());
                connections.spawn(async move {
                    match acceptor {
                        None => connection(stream, remote, router, stop).await,
                        Some(acceptor) => match timeout(HANDSHAKE_WAIT, acceptor.accept(stream)).await {
                            Ok(Ok(stream)) => connection(stream, remote, router, stop).await,
                            Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                            Err(_) => tracing::debug!("a TLS handshake took too long"),
                        },
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, Remote, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    Ok((stream, Remote(remote), place))
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    remote: Remote,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(remote);
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT).max_buf_size(MAX_HEAD);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD as u32);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let stopping = async {
        // An error says that the sender is gone: a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}
