"""Train a VAE on handwritten digits, estimate log p(x) per digit, and compare with its ELBO."""

import argparse

import pyro_vae as pv


def main(smoke: bool = False) -> pv.Evidence:
    """Run the example; ``smoke`` trains for a few epochs only."""
    train, valid, test = pv.load("digits")
    config = pv.Config(latent_dim=8)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)

    epochs = 3 if smoke else 100
    history = pv.fit(vae, train, valid, epochs=epochs, schedule="one-cycle", seed=0)
    print(f"validation ELBO {history.epochs[-1].valid_elbo:.2f} nats after {epochs} epochs\n")

    evidence = pv.log_evidence(vae.model, vae.guide, test, samples=200 if smoke else 2000)
    print(evidence)

    # One number per datum, so that odd digits can be found.
    order = evidence.log_px.argsort()[:5]
    print(f"\nleast probable digits: {order.tolist()}, labelled {test.y[order].tolist()}")
    return evidence


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few epochs only")
    main(parser.parse_args().smoke)
