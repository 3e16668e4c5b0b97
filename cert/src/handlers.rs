//! The four requests: authorize, call once, reply (spec certificates-service, chapter 5). What needs more than that is in
//! `lib.rs`.

use cert_api::{CertificateReply, CreateCertificate, DeleteCertificate, GetCertificate, ImportCertificate};
use http_common::{Handlers, Peer, Serve};

use crate::{Certd, Error};

impl Handlers for Certd {
    type Error = Error;
}

impl Serve<CreateCertificate> for Certd {
    async fn serve(&self, peer: Peer, request: CreateCertificate) -> Result<CertificateReply, Error> {
        let id = self.allow(&peer, request.cert_id.clone())?;
        Ok(CertificateReply { pem: self.create(id, request).await? })
    }
}

impl Serve<GetCertificate> for Certd {
    /// Anybody may.
    async fn serve(&self, _: Peer, request: GetCertificate) -> Result<CertificateReply, Error> {
        Ok(CertificateReply { pem: self.read(request.cert_id).await? })
    }
}

impl Serve<ImportCertificate> for Certd {
    async fn serve(&self, peer: Peer, request: ImportCertificate) -> Result<CertificateReply, Error> {
        let id = self.allow(&peer, request.cert_id)?;
        Ok(CertificateReply { pem: self.import(id, request.pem).await? })
    }
}

impl Serve<DeleteCertificate> for Certd {
    async fn serve(&self, peer: Peer, request: DeleteCertificate) -> Result<(), Error> {
        let id = self.allow(&peer, request.cert_id)?;
        self.delete(id).await
    }
}
