"""nginx as the tests have it, that answers over TLS as well, on one more port, and holds nothing back."""

import signal
import time
from dataclasses import replace
from pathlib import Path

from tests.servers.nginx import PROFILES, TIMEOUT, WORKERS, Nginx, Profile
from tests.servers.sockets import Certificates


class SecureNginx(Nginx):
    """Run nginx with the profiles of the tests, and two more, named ``https`` and ``uneven``.

    Attributes:
        authority: path of the certificate that clients are to trust.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        """Make certificates by `openssl` in *folder*, and start nginx before *root*."""
        certificates = Certificates(folder)
        self.authority = certificates.authority
        uneven = replace(PROFILES["wan"], slow_rate=2 * 2**20)
        super().__init__(root, PROFILES | {"https": Profile(), "uneven": uneven})
        try:
            self._secure(certificates.server)
        except BaseException:
            self.close()
            raise

    def url(self, path: str, profile: str = "raw") -> str:
        """Return the URL of a file below the root."""
        url = super().url(path, profile)
        return url.replace("http:", "https:", 1) if profile == "https" else url

    def _secure(self, certificate: str) -> None:
        """Let the port of ``https`` speak TLS, by a change of the configuration and another generation of workers.

        And let the head of an answer go before its body. Otherwise the last bytes of 64 KiB wait 40 ms for clients that
        acknowledge late, obstore among them; without tcp_nopush, one read in some hundreds stands still for 8 to 60 s.
        """
        config, plain = self._folder / "nginx.conf", f"listen 127.0.0.1:{self._ports['https']}"
        secure = f"{plain} ssl;\n        ssl_certificate {certificate};\n        ssl_certificate_key {certificate}"
        text = config.read_text().replace("tcp_nopush on;", "tcp_nopush on;\n    postpone_output 0;")
        config.write_text(text.replace(plain, secure))
        former = self._workers()
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + TIMEOUT
        while len(workers := self._workers()) != WORKERS or workers & former:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nginx does not take TLS: {(self._folder / 'error.log').read_text()}")
            time.sleep(0.01)

    def _workers(self) -> set[str]:
        return set(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split())
