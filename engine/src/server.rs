//! Accepts clients.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::connection::Connection;
use crate::engine::Engine;
use crate::protocol::{Reply, Request};
use crate::requests;

/// So many clients are served beside each other; others are refused.
const CLIENTS_MAX: usize = 1024;

/// How long to wait when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(20);

/// Accepts clients until it is dropped.
pub(crate) async fn serve(engine: Rc<Engine>, listener: UnixListener, is_shared: bool) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if may_ask(&stream, is_shared) => {
                tokio::task::spawn_local(attend(engine.clone(), stream));
                // What it asks for is begun before it is looked whether there is another.
                tokio::task::yield_now().await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("accept a client: {}", skiff_runtime::cause(&error));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The socket's permissions keep others out; this is said once more, in case it was given away.
fn may_ask(stream: &UnixStream, is_shared: bool) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    is_shared || stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

/// Serves those that have connected and that nobody has accepted any more: they are told to ask the next daemon.
pub(crate) fn turn_away(engine: &Rc<Engine>, streams: Vec<std::os::unix::net::UnixStream>, is_shared: bool) {
    for stream in streams {
        match stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)) {
            Ok(stream) if may_ask(&stream, is_shared) => {
                tokio::task::spawn_local(attend(engine.clone(), stream));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!("a client: {}", skiff_runtime::cause(&error)),
        }
    }
}

async fn attend(engine: Rc<Engine>, stream: UnixStream) {
    let clients = engine.activity.clients.get();
    let _counted = engine.activity.client();
    let mut connection = Connection::new(stream, engine.activity.asker());
    let result = if clients >= CLIENTS_MAX {
        let message = format!("the daemon serves {CLIENTS_MAX} clients already");
        connection.reply(&Reply::Failed { code: 125, message }, &[]).await
    } else {
        converse(&engine, &mut connection).await
    };
    if let Err(error) = result {
        tracing::debug!("a client: {}", skiff_runtime::cause(&error));
    }
}

async fn converse(engine: &Rc<Engine>, connection: &mut Connection) -> io::Result<()> {
    let (request, descriptors) = match connection.request().await {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(error) => {
            let message = format!("not a request: {}", skiff_runtime::cause(&error));
            return connection.reply(&Reply::Failed { code: 125, message }, &[]).await;
        }
    };
    if request == Request::Leave {
        connection.reply(&Reply::Done { names: Vec::new(), errors: Vec::new() }, &[]).await?;
        engine.activity.leave.notify_one();
        // The connection ends with the daemon: its client waits for that.
        return std::future::pending().await;
    }
    if engine.activity.is_leaving.get() {
        return connection.reply(&Reply::Leaving, &[]).await;
    }
    if matches!(request, Request::Wait { .. } | Request::Stop { .. } | Request::Restart { .. }) {
        connection.is_patient();
    }
    requests::carry_out(engine, connection, request, descriptors).await
}
