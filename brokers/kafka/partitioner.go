package kafka

import (
	"fmt"
	"math/rand/v2"

	"github.com/IBM/sarama"
)

// partitioner puts a key where Java's clients, franz-go and librdkafka's
// murmur2_random put it, so that producers in several languages share the order
// of a key. Sarama's own default is FNV-1a, which sends most keys elsewhere.
// A record without a key goes to a random partition.
type partitioner struct{}

var _ sarama.DynamicConsistencyPartitioner = partitioner{}

func newPartitioner(string) sarama.Partitioner { return partitioner{} }

func (partitioner) Partition(msg *sarama.ProducerMessage, partitions int32) (int32, error) {
	if msg.Key == nil {
		return rand.Int32N(partitions), nil
	}
	key, err := msg.Key.Encode()
	if err != nil {
		return -1, fmt.Errorf("encode the key: %w", err)
	}
	// The sign bit is dropped, as in Kafka's Utils.toPositive.
	return int32(murmur2(key)&0x7fffffff) % partitions, nil
}

// RequiresConsistency is true for keyed records: while the partition of a key
// has no leader its records wait rather than move to another partition.
func (partitioner) RequiresConsistency() bool { return true }

func (partitioner) MessageRequiresConsistency(msg *sarama.ProducerMessage) bool {
	return msg.Key != nil
}

// murmur2 is the hash of org.apache.kafka.common.utils.Utils.murmur2.
func murmur2(b []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(b)) //nolint:gosec // as the hash has it
	for ; len(b) >= 4; b = b[4:] {
		k := uint32(b[3])<<24 | uint32(b[2])<<16 | uint32(b[1])<<8 | uint32(b[0])
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
