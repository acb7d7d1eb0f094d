"""Which node owns which shards and ingresses: leases, membership, fair shares, takeover and handover."""
