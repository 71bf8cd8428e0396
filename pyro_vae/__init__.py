"""Deep latent-variable models as Pyro programs, with log p(x) per datum and its error."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
