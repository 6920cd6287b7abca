"""HyenaDNA with a configurable norm layer, and the genome data of both DNA packages."""
