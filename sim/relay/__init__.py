"""The command ``ems-fl relay``: real nodes on real links that go dark as a contact plan says."""
