{{/* What would be no cluster. */}}
{{- define "tertulia.validateCluster" -}}
{{- if not (dig "nats" "urls" "" .Values.config) }}
{{- fail "config.log.engine is nats: set config.nats.urls to the servers of NATS" }}
{{- end }}
{{- if get (.Values.config.cluster | default dict) "node_id" }}
{{- fail "config.cluster.node_id would be the same in every pod: leave it out, each is told its own name; to tell another, set TERTULIA__CLUSTER__NODE_ID in extraEnv" }}
{{- end }}
{{- $delay := include "tertulia.seconds" (list . "drain" "delay" (include "tertulia.drainDelay" .)) | int }}
{{- $handover := mul 3 (include "tertulia.seconds" (list . "cluster" "handover" "2s") | int) }}
{{- $linger := include "tertulia.seconds" (list . "drain" "linger" "1s") | int }}
{{- $away := include "tertulia.seconds" (list . "drain" "reconnect_after" "5s") | int }}
{{- $needed := add (max $delay $handover) $away $linger 3 }}
{{- $grace := include "tertulia.seconds" (list . "drain" "grace" "20s") | int }}
{{- if lt $grace (int $needed) }}
{{- fail (printf "config.drain.grace (%ds) must be at least %ds, to hand over in time: drain.delay (%ds) or three times cluster.handover (%ds), whichever is longer, drain.reconnect_after (%ds), drain.linger (%ds), and 3s to end" $grace $needed $delay $handover $away $linger) }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if .enabled }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas (%d) must not be more than autoscaling.maxReplicas (%d)" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- if and (kindIs "invalid" .cpu) (kindIs "invalid" .connections) }}
{{- fail "autoscaling has nothing to go by: set autoscaling.cpu or autoscaling.connections" }}
{{- end }}
{{- $limit := dig "limits" "connections" 65536 $.Values.config | int64 }}
{{- if ge (int64 .connections) $limit }}
{{- fail (printf "autoscaling.connections (%d) must be less than config.limits.connections (%d), or pods are full before there are more" (int64 .connections) $limit) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What would come up, and could not be reached or would not be let up. */}}
{{- define "tertulia.validate" -}}
{{- if include "tertulia.isCluster" . }}
{{- include "tertulia.validateCluster" . }}
{{- end }}
{{- range list "chat" "http" }}
{{- if include "tertulia.isLoopback" (list $ .) }}
{{- fail (printf "config.%s.address is on loopback, where nobody reaches it: use 0.0.0.0:PORT" .) }}
{{- end }}
{{- end }}
{{- if and (include "tertulia.adminExposed" .) (not .Values.admin.existingSecret) (not .Values.tls.admin.clientCASecret) (not (dig "admin" "token_file" "" .Values.config)) (not (dig "admin" "client_ca_file" "" .Values.config)) (not (dig "admin" "insecure" false .Values.config)) }}
{{- fail "config.admin.address is not on loopback: set admin.existingSecret to the Secret that holds the token of the admin API, or tls.admin.clientCASecret to the one with the authorities of callers" }}
{{- end }}
{{- end }}
