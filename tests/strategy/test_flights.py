"""What is in flight, by node and by cluster, beside a look through all of it."""

from hypothesis import given
from hypothesis import strategies as st

from moe.experts import ExpertId
from strategy.flights import Flights, InFlight

SENT = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["", "ice", "sea"])), max_size=12)


@given(SENT, st.data())
def test_nodes_and_clusters_are_those_of_a_look_through_all(
    sent: list[tuple[int, str]], data: st.DataObject
) -> None:
    flights, reference = Flights(), dict[str, InFlight]()
    for number, (node_id, cluster) in enumerate(sent):
        flight = InFlight(node_id=node_id, cluster=cluster, versions={ExpertId(0, 1): 2} if cluster else {})
        flights.add(f"m{number}", flight)
        reference[f"m{number}"] = flight
        if data.draw(st.booleans()):
            answered = data.draw(st.sampled_from(sorted(reference)))
            assert flights.take(answered) is reference.pop(answered)
        assert dict(flights) == reference and list(flights) == list(reference)
        assert flights.nodes == {flight.node_id for flight in reference.values()}
        for cluster_name in ("ice", "sea"):
            training = [key for key, flight in reference.items() if flight.cluster == cluster_name]
            assert list(flights.training(cluster_name)) == training
    flights.forget_all()
    assert not flights and not flights.nodes and not flights.training("sea")
