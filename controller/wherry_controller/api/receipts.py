"""What a device attested, as HTTP shows it: the figures, and the bytes that were signed."""

from __future__ import annotations

from pydantic import BaseModel, Field

from wherry_controller.services.receipts import KeptReceipt


class Receipt(BaseModel):
    """What a device signed when it confirmed a deployment.

    `signed` is the text whose bytes `sig` is over: ECDSA (P-256, SHA-256), DER in hexadecimal, by
    the key whose sha256 is `keyid`. Times are compute times in the probation.
    """

    deployment: str
    alias: str = Field(examples=["default"])
    bundle: str
    outputs: str = Field(description="The sha256 of what the device computed for golden inputs")
    requests: int
    p50_ms: float | None
    p99_ms: float | None
    memory_bytes: int
    runtime: str = Field(examples=["onnxruntime"])
    runtime_version: str = Field(examples=["1.27.0"])
    agent_version: str = Field(examples=["0.5.0"])
    at: float
    received_at: float
    signed: str
    keyid: str
    sig: str


def receipt_of(kept: KeptReceipt) -> Receipt:
    says, signed = kept.says, kept.signed
    return Receipt(
        deployment=says.deployment,
        alias=says.alias,
        bundle=says.bundle,
        outputs=says.outputs,
        requests=says.requests,
        p50_ms=says.p50_ms,
        p99_ms=says.p99_ms,
        memory_bytes=says.memory_bytes,
        runtime=says.runtime,
        runtime_version=says.runtime_version,
        agent_version=says.agent_version,
        at=says.at,
        received_at=kept.received_at,
        signed=bytes(signed.signed).decode(),
        keyid=signed.keyid,
        sig=signed.sig,
    )
