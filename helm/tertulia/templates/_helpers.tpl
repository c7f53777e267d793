{{- define "tertulia.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* At most 50 characters, so that the suffixes of pods and services fit; without the dots that a release may have in its name and a Service may not. */}}
{{- define "tertulia.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "tertulia.name" .) .Release.Name }}
{{- .Release.Name | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tertulia.name" .) | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tertulia.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tertulia.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "tertulia.serverLabels" -}}
{{ include "tertulia.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{/* Maps as one, of which the first that has a key is the one that counts, whatever it has there: (list FIRST SECOND …). */}}
{{- define "tertulia.merged" -}}
{{- $all := dict }}
{{- range . }}
{{- range $key, $value := . }}
{{- if not (hasKey $all $key) }}
{{- $_ := set $all $key $value }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{/* The labels of an object: (list . COMPONENT GIVEN), where COMPONENT may be empty and GIVEN are those that the values have for this object. */}}
{{- define "tertulia.labels" -}}
{{- $given := index . 2 }}
{{- $component := index . 1 }}
{{- with index . 0 }}
{{- $own := include "tertulia.selectorLabels" . | fromYaml }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $own "app.kubernetes.io/part-of" "tertulia" }}
{{- if $component }}
{{- $_ := set $own "app.kubernetes.io/component" $component }}
{{- end }}
{{- include "tertulia.merged" (list $own $given .Values.commonLabels) }}
{{- end }}
{{- end }}

{{/* The labels of the server's pods. What differs from chart to chart is not among them: another chart would be another pod, though nothing of it has changed. */}}
{{- define "tertulia.podLabels" -}}
{{- $own := merge (include "tertulia.serverLabels" . | fromYaml) (dict "app.kubernetes.io/part-of" "tertulia") }}
{{- include "tertulia.merged" (list $own .Values.podLabels .Values.commonLabels) }}
{{- end }}

{{/* The annotations of an object, if it has any: (list . OWN GIVEN), those of the chart and those that the values have for this object. */}}
{{- define "tertulia.annotations" -}}
{{- $all := include "tertulia.merged" (list (index . 1) (index . 2) (index . 0).Values.commonAnnotations) }}
{{- if ne $all "{}" }}
annotations:
  {{- $all | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tertulia.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tertulia.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tertulia.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* A probe of the server, if it is to have it: (list . "livenessProbe"). By HTTPS where it asks a port that speaks TLS. */}}
{{- define "tertulia.probe" -}}
{{- $name := index . 1 }}
{{- $all := index . 0 }}
{{- with index $all.Values $name }}
{{- $probe := deepCopy . }}
{{- /* Helm adds what is given to the default, which asks by HTTP: another way to ask replaces it. */}}
{{- if or $probe.tcpSocket $probe.grpc $probe.exec }}
{{- $_ := unset $probe "httpGet" }}
{{- else if not $probe.httpGet }}
{{- fail (printf "%s asks nothing: give it one of httpGet, tcpSocket, grpc and exec, or leave it out with null" $name) }}
{{- end }}
{{- with $probe.httpGet }}
{{- if and (not .scheme) (include "tertulia.secure" (list $all "http")) (has (toString .port) (list "http" (include "tertulia.port" (list $all "http")))) }}
{{- $_ := set . "scheme" "HTTPS" }}
{{- end }}
{{- end }}
{{- toYaml $probe }}
{{- end }}
{{- end }}

{{/* The environment of the server, also where only its configuration is checked: (list . OWN-VARIABLES). An own one gives way to one of the values. */}}
{{- define "tertulia.environment" -}}
{{- $all := list }}
{{- range index . 1 }}
{{- $name := .name }}
{{- $given := false }}
{{- range (index $ 0).Values.extraEnv }}
{{- if eq .name $name }}{{ $given = true }}{{ end }}
{{- end }}
{{- if not $given }}
{{- $all = append $all . }}
{{- end }}
{{- end }}
{{- with index . 0 }}
{{- with concat $all (.Values.extraEnv | default list) }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tertulia.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where any pod of the release may run. */}}
{{- define "tertulia.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/* On which nodes the release's other pods may run: on those where the server may. How the server's pods are to be beside or away from others is not for them. */}}
{{- define "tertulia.nodeAffinity" -}}
{{- with (.Values.affinity | default dict).nodeAffinity }}
affinity:
  nodeAffinity:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* What the certificate of the chat port is for. */}}
{{- define "tertulia.chatName" -}}
{{- .Values.tls.chat.serverName | default (printf "%s.%s.svc" (include "tertulia.fullname" .) .Release.Namespace) }}
{{- end }}

{{/* Which addresses a service has, of IPv4 and IPv6. */}}
{{- define "tertulia.ipFamilies" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What the claims of the pods are made from. */}}
{{- define "tertulia.claims" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: data
    labels:
      {{- include "tertulia.merged" (list (include "tertulia.selectorLabels" . | fromYaml) .Values.persistence.labels) | nindent 6 }}
    {{- with .Values.persistence.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes:
      {{- toYaml .Values.persistence.accessModes | nindent 6 }}
    {{- with .Values.persistence.storageClass }}
    storageClassName: {{ eq . "-" | ternary "" . | quote }}
    {{- end }}
    {{- with .Values.persistence.selector }}
    selector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    resources:
      requests:
        storage: {{ .Values.persistence.size | quote }}
{{- end }}
