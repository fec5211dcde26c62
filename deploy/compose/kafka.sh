#!/bin/sh
# One Kafka broker without security, its log in the container.
# No file names: Java itself expands the folder.
set -euf
cat > /tmp/server.properties <<'PROPERTIES'
process.roles=broker,controller
node.id=1
listeners=CLIENT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093
advertised.listeners=CLIENT://172.30.99.4:9092
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
controller.quorum.bootstrap.servers=127.0.0.1:9093
log.dirs=/tmp/kafka
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
PROPERTIES
java='java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp /opt/kafka/*'
[ -d /tmp/kafka ] || $java kafka.tools.StorageTool format --standalone -t MkU3OEVBNTcwNTJENDM2Qg -c /tmp/server.properties
exec $java kafka.Kafka /tmp/server.properties
